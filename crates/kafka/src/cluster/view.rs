//! What `onhand.cluster` says, folded up to one offset. Only the newest record of each key counts, so
//! that it is the same before and after compaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onhand_log::Offset;
use onhand_log::cluster::{Ended, Member, Membership, Place, WarmUp};
use tracing::info;

use crate::cluster::assign::balance;
use crate::cluster::note::{Alive, Assignment, Claim, Note, name_of};

/// The newest heartbeat of one name.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Beat {
    incarnation: Arc<str>,
    address: Arc<str>,
    warms_up: bool,
    /// Since this member joined. One that nobody heard since may be of an instance that died long ago: it
    /// counts only as far as partitions are assigned to it.
    heard: bool,
    /// Own heartbeats read back since.
    silent: u32,
    /// Where it stands.
    at: Offset,
}

/// What a member brings when it joins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) address: Arc<str>,
    pub(crate) partitions: u16,
    pub(crate) spread: BTreeSet<Arc<str>>,
    /// So many own heartbeats without one of another member: it is silent.
    pub(crate) silent_after: u32,
    /// Nothing shall be assigned to it yet.
    pub(crate) warms_up: bool,
    /// How long one that said that it goes has for giving up what it holds.
    pub(crate) release_timeout: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct View {
    me: Arc<str>,
    next: Offset,
    ids: BTreeMap<Arc<str>, Vec<u64>>,
    newest: BTreeMap<Arc<str>, Arc<str>>,
    /// By owner: incarnation and number, and where the record stands.
    claims: BTreeMap<Arc<str>, BTreeMap<(Arc<str>, u64), Offset>>,
    beats: BTreeMap<Arc<str>, Beat>,
    assignment: Assignment,
    /// By name, the last incarnation that an assignment dropped. It has ended, whatever it says.
    dropped: BTreeMap<Arc<str>, Arc<str>>,
    /// By name, the run that said that it goes, and when that was read.
    left: BTreeMap<Arc<str>, (Arc<str>, Instant)>,
    part: Option<Part>,
    ended: Option<Ended>,
    is_sealed: bool,
}

impl View {
    pub(crate) fn new(me: &Arc<str>) -> Self {
        Self {
            me: Arc::clone(me),
            next: 0,
            ids: BTreeMap::new(),
            newest: BTreeMap::new(),
            claims: BTreeMap::new(),
            beats: BTreeMap::new(),
            assignment: Assignment::default(),
            dropped: BTreeMap::new(),
            left: BTreeMap::new(),
            part: None,
            ended: None,
            is_sealed: false,
        }
    }

    /// Everything below is folded.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Takes the record of that offset; `None` for one that is none of ours.
    pub(crate) fn fold(&mut self, offset: Offset, note: Option<Note>) {
        self.next = self.next.max(offset + 1);
        match note {
            None => {}
            Some(Note::Newest { name, incarnation }) => {
                if *name == *name_of(&self.me) && self.part.is_some() && incarnation != self.me {
                    self.ended.get_or_insert(Ended::Replaced);
                }
                if self
                    .left
                    .get(&name)
                    .is_some_and(|(run, _)| *run != incarnation)
                {
                    self.left.remove(&name);
                }
                self.newest.insert(name, incarnation);
            }
            Some(Note::Ids(incarnation, Some(ids))) => {
                self.ids.insert(incarnation, ids);
            }
            Some(Note::Ids(incarnation, None)) => {
                self.ids.remove(&incarnation);
            }
            Some(Note::Claim(claim, stands)) => self.fold_claim(claim, stands, offset),
            Some(Note::Beat(name, None)) => {
                if let Some(beat) = self.beats.remove(&name) {
                    self.left.insert(name, (beat.incarnation, Instant::now()));
                }
            }
            Some(Note::Beat(name, Some(alive))) => self.fold_beat(name, alive, offset),
            Some(Note::Assign(assignment)) => self.fold_assignment(assignment),
            Some(Note::Sealed(is_sealed)) => {
                self.is_sealed = is_sealed;
                self.end_if_sealed();
            }
        }
        self.end_vain_warm_up();
    }

    fn fold_claim(&mut self, claim: Claim, stands: bool, offset: Offset) {
        let key = (claim.incarnation, claim.number);
        let claims = self.claims.entry(Arc::clone(&claim.owner)).or_default();
        if stands {
            claims.insert(key, offset);
        } else {
            claims.remove(&key);
        }
        if claims.is_empty() {
            self.claims.remove(&claim.owner);
        }
    }

    fn fold_beat(&mut self, name: Arc<str>, alive: Alive, at: Offset) {
        let Alive {
            incarnation,
            address,
            warms_up,
        } = alive;
        // One that was replaced, or that an assignment dropped, may still believe that it lives.
        if self.newest.get(&name) != Some(&incarnation)
            || self.dropped.get(&name) == Some(&incarnation)
        {
            return;
        }
        if incarnation == self.me {
            let after = self.part.as_ref().map(|part| part.silent_after);
            for beat in self.beats.values_mut() {
                beat.silent = beat.silent.saturating_add(1);
                if Some(beat.silent) == after {
                    info!(
                        incarnation = &*beat.incarnation,
                        "nothing is heard from it any more"
                    );
                }
            }
        }
        // A goodbye names no run: it was another's.
        if self
            .left
            .get(&name)
            .is_some_and(|(run, _)| *run == incarnation)
        {
            self.left.remove(&name);
        }
        let beat = Beat {
            incarnation,
            address,
            warms_up,
            heard: self.part.is_some(),
            silent: 0,
            at,
        };
        self.beats.insert(name, beat);
    }

    fn fold_assignment(&mut self, assignment: Assignment) {
        let ours = self.part.as_ref().map(|part| usize::from(part.partitions));
        if ours.is_some_and(|ours| ours != assignment.partitions()) {
            return;
        }
        for run in self.assignment.members.keys() {
            if !assignment.members.contains_key(run) {
                self.dropped.insert(name_of(run).into(), Arc::clone(run));
            }
        }
        if self.dropped.get(name_of(&self.me)) == Some(&self.me) {
            let why = if self.is_replaced() {
                Ended::Replaced
            } else {
                Ended::Silent
            };
            self.ended.get_or_insert(why);
        }
        self.assignment = assignment;
    }

    /// Whether a newer run of this instance's name has announced itself. Meant once this one has.
    pub(crate) fn is_replaced(&self) -> bool {
        self.newest
            .get(name_of(&self.me))
            .is_some_and(|run| *run != self.me)
    }

    /// Why this run has ended; of one that never joined, only that it was replaced.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let replaced = self.is_replaced().then_some(Ended::Replaced);
        self.ended.or(replaced)
    }

    pub(crate) fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }

    /// Names of which a heartbeat stands at that offset or above, and that have not left since.
    pub(crate) fn heard_since(&self, from: Offset) -> Vec<String> {
        let heard = self.beats.iter().filter(|(_, beat)| beat.at >= from);
        heard.map(|(name, _)| name.to_string()).collect()
    }

    /// The ids of an incarnation that are not known to be dead.
    pub(crate) fn ids(&self, incarnation: &str) -> &[u64] {
        self.ids.get(incarnation).map_or(&[], Vec::as_slice)
    }

    /// Other runs of this instance that still have ids: earlier ones, unless this one is replaced.
    pub(crate) fn earlier_runs(&self) -> Vec<Arc<str>> {
        let name = name_of(&self.me);
        let runs = self.ids.keys();
        runs.filter(|run| name_of(run) == name && **run != self.me)
            .cloned()
            .collect()
    }

    /// Claims of an owner that stand, with where.
    pub(crate) fn claims(&self, owner: &str) -> impl Iterator<Item = (Claim, Offset)> + '_ {
        let found = self.claims.get_key_value(owner).into_iter();
        found.flat_map(|(owner, claims)| {
            claims.iter().map(|((incarnation, number), at)| {
                let claim = Claim {
                    owner: Arc::clone(owner),
                    incarnation: Arc::clone(incarnation),
                    number: *number,
                };
                (claim, *at)
            })
        })
    }

    /// This incarnation's standing claim at that offset, if nobody else claimed the owner above it.
    pub(crate) fn standing(&self, owner: &str, at: Offset) -> Option<Claim> {
        let mut own = None;
        for (claim, place) in self.claims(owner) {
            if claim.incarnation != self.me && place > at {
                return None;
            }
            if claim.incarnation == self.me && place == at {
                own = Some(claim);
            }
        }
        own
    }

    /// Who joined has nothing any more in a log that moved elsewhere. That it did is in the order of this
    /// topic so that whoever claims a name behind it has read of it.
    fn end_if_sealed(&mut self) {
        if self.is_sealed && self.part.is_some() {
            self.end(Ended::Silent);
        }
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    pub(crate) fn join(&mut self, part: Part) {
        self.part = Some(part);
        self.end_if_sealed();
        if self.is_replaced() {
            self.end(Ended::Replaced);
        }
        self.end_vain_warm_up();
    }

    /// Ends this member's warm-up.
    pub(crate) fn take_part(&mut self) {
        if let Some(part) = &mut self.part {
            part.warms_up = false;
        }
    }

    /// A warm-up helps nobody where nobody answers meanwhile: for what this instance had in an earlier run, or
    /// where nobody else takes part.
    fn end_vain_warm_up(&mut self) {
        if !self.part.as_ref().is_some_and(|part| part.warms_up) {
            return;
        }
        let me = name_of(&self.me);
        let members = &mut self.assignment.members.iter();
        let has = members.any(|(run, owned)| name_of(run) == me && !owned.is_empty());
        let is_alone = self.parts().all(|(name, _)| **name == *me);
        if has || is_alone {
            self.take_part();
        }
    }

    /// What this member prepares for, while it warms up.
    fn warm_up(&self) -> Option<WarmUp> {
        let part = self.part.as_ref().filter(|part| part.warms_up)?;
        let run = |beat: &Beat| Arc::clone(&beat.incarnation);
        let mut members: BTreeSet<Arc<str>> = self.parts().map(|(_, beat)| run(beat)).collect();
        let mut assignment = self.assignment.clone();
        let mut is_next = true;
        // Those before it take part first: each is given its share of what those before it left.
        for (_, beat) in self.live().filter(|(_, beat)| beat.warms_up) {
            members.insert(run(beat));
            assignment = balance(&assignment, &members, part.partitions);
            if beat.incarnation == self.me {
                let coming = assignment.members.remove(&self.me).unwrap_or_default();
                return Some(WarmUp {
                    coming: coming.into_iter().collect(),
                    is_next,
                });
            }
            is_next = false;
        }
        None
    }

    pub(crate) fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    pub(crate) fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The partition of an owner `name/partition` that the assignment governs.
    pub(crate) fn spread_partition(&self, owner: &str) -> Option<u16> {
        let part = self.part.as_ref()?;
        let (name, number) = owner.rsplit_once('/')?;
        let number = number.parse().ok()?;
        (part.spread.contains(name) && number < part.partitions).then_some(number)
    }

    pub(crate) fn is_mine(&self, partition: u16) -> bool {
        self.ended.is_none() && self.assignment.of(partition) == Some(&self.me)
    }

    /// Whether somebody other than this one holds a claim of that owner who is going to give it up: a
    /// member of the last assignment, or one that leaves.
    pub(crate) fn is_held_by_member(&self, owner: &str) -> bool {
        self.claims(owner).any(|(claim, _)| {
            let run = &claim.incarnation;
            *run != self.me && (self.assignment.members.contains_key(run) || self.leaves(run))
        })
    }

    /// Whether that incarnation has said that it goes. It finishes what it has, for a while.
    fn leaves(&self, run: &Arc<str>) -> bool {
        let patience = self.part.as_ref().map(|part| part.release_timeout);
        let left = self.left.get(name_of(run));
        left.is_some_and(|(left, at)| left == run && Some(at.elapsed()) < patience)
    }

    /// Incarnations that are no members any more, did not say that they go, and hold claims of
    /// partitions that are to be this one's.
    pub(crate) fn inherited_from(&self) -> BTreeSet<Arc<str>> {
        let mut dead = BTreeSet::new();
        for (owner, claims) in &self.claims {
            if !self
                .spread_partition(owner)
                .is_some_and(|p| self.is_mine(p))
            {
                continue;
            }
            for (run, _) in claims.keys() {
                let is_there = self.assignment.members.contains_key(run) || self.leaves(run);
                if *run != self.me && !is_there {
                    dead.insert(Arc::clone(run));
                }
            }
        }
        dead
    }

    /// Live incarnations, in the order of their names.
    fn live(&self) -> impl Iterator<Item = (&Arc<str>, &Beat)> {
        let after = self
            .part
            .as_ref()
            .map_or(u32::MAX, |part| part.silent_after);
        self.beats.iter().filter(move |(name, beat)| {
            let run = &beat.incarnation;
            let dropped = self.dropped.get(*name) == Some(run);
            let heard = beat.heard || self.assignment.members.contains_key(run);
            beat.silent < after && !dropped && heard
        })
    }

    /// Of the live ones those to which partitions are assigned.
    fn parts(&self) -> impl Iterator<Item = (&Arc<str>, &Beat)> {
        self.live().filter(|(_, beat)| !beat.warms_up)
    }

    /// Whether an own heartbeat was read back.
    pub(crate) fn is_heard(&self) -> bool {
        self.beats
            .get(name_of(&self.me))
            .is_some_and(|beat| beat.incarnation == self.me)
    }

    /// The assignment that this member shall write now, if it is the one to write it.
    pub(crate) fn proposal(&self) -> Option<Assignment> {
        let part = self.part.as_ref()?;
        let (_, first) = self.parts().next()?;
        if self.ended().is_some() || first.incarnation != self.me {
            return None;
        }
        let runs = self.parts().map(|(_, beat)| Arc::clone(&beat.incarnation));
        let members: BTreeSet<Arc<str>> = runs.collect();
        if members.iter().eq(self.assignment.members.keys()) {
            return None;
        }
        // Of several that begin at once each waits until it has heard the others, or missed them.
        let is_open = |beat: &Beat| !beat.heard && beat.silent < part.silent_after;
        if self.assignment.members.is_empty() && self.beats.values().any(is_open) {
            return None;
        }
        Some(balance(&self.assignment, &members, part.partitions))
    }

    /// What callers are told.
    pub(crate) fn membership(&self, version: u64) -> Membership {
        let partitions = self.part.as_ref().map_or(0, |part| part.partitions);
        let mut members = Vec::new();
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, beat) in self.live() {
            if self.ended.is_some() && beat.incarnation == self.me {
                continue;
            }
            index.insert(&beat.incarnation, members.len());
            members.push(Member {
                name: Arc::clone(name),
                incarnation: Arc::clone(&beat.incarnation),
                address: Arc::clone(&beat.address),
                takes_part: self.assignment.members.contains_key(&beat.incarnation),
            });
        }
        let mut places = vec![Place::default(); usize::from(partitions)];
        for (run, owned) in &self.assignment.members {
            for partition in owned {
                if let Some(place) = places.get_mut(usize::from(*partition)) {
                    place.assigned = index.get(&**run).copied();
                }
            }
        }
        let mut newest: BTreeMap<u16, Offset> = BTreeMap::new();
        for (owner, claims) in &self.claims {
            let Some(partition) = self.spread_partition(owner) else {
                continue;
            };
            for ((run, _), at) in claims {
                let last = newest.entry(partition).or_insert(-1);
                if *at > *last
                    && let Some(place) = places.get_mut(usize::from(partition))
                {
                    *last = *at;
                    place.holder = index.get(&**run).copied();
                }
            }
        }
        Membership {
            version,
            me: index.get(&*self.me).copied(),
            members,
            places,
            warm_up: self.warm_up().filter(|_| self.ended.is_none()),
            ended: self.ended,
        }
    }
}

#[cfg(test)]
mod tests;
