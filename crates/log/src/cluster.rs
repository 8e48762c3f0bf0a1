//! Who owns which partitions when several instances share a log.
//!
//! An **instance** is a process with a name. Each run of it is a **member** of its own: a restarted
//! instance is another member of the same name. Every partition is **assigned** to one member at a
//! time, and **held** by the member that claimed it last and has not given it up. A partition moves
//! so: it is assigned to somebody else; its holder finishes what it began and gives its names up
//! ([`Log::give_up`](crate::Log::give_up)), or is dead and gets fenced; the new one claims them.
//!
//! A member that joins others may **warm up** before it takes part: nothing is assigned to it yet, and it
//! follows what will be, so that its owners can give it up and it answers again at once.
//!
//! What an engine promises: a member that is fenced, or that is not in the newest membership any more,
//! can write nothing. Who is told what, and when, decides only who is disturbed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::murmur2;

/// One run of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The instance's name, as its operator gave it. No two live members have the same.
    pub name: Arc<str>,
    /// Which run of the instance: differs for each.
    pub incarnation: Arc<str>,
    /// Where it answers requests, `host:port`.
    pub address: Arc<str>,
    /// Whether partitions are assigned to it, as far as there are enough: not while it warms up, and
    /// not in the moment before the first assignment that knows it.
    pub takes_part: bool,
}

/// Where one partition is, as indices into [`Membership::members`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Who shall own it.
    pub assigned: Option<usize>,
    /// Who claimed it last and has not given it up. It may still be restoring.
    pub holder: Option<usize>,
}

/// What an instance knows of all of them at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Rises with every change that this instance heard of.
    pub version: u64,
    /// The live ones, by name.
    pub members: Vec<Member>,
    /// This member's index; `None` before it joined, and once its run has ended.
    pub me: Option<usize>,
    /// By partition.
    pub places: Vec<Place>,
    /// While this member warms up: what it prepares for.
    pub warm_up: Option<WarmUp>,
    /// Why this member's run has ended: it was silent for too long, or another process has its name.
    /// It can write nothing more; the instance may join anew.
    pub ended: Option<Ended>,
}

/// What a member prepares for before it takes part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WarmUp {
    /// The partitions that are assigned to it once it takes part, if nobody else comes or goes before.
    pub coming: BTreeSet<u16>,
    /// Whether it is its turn. Of several that warm up those before it by name come first: what it is
    /// given depends on what they are.
    pub is_next: bool,
}

/// Why a member's run has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The others heard nothing from it for too long, and took what it had. It may join anew.
    Silent,
    /// Another process joined under its name. It must not join again, or the two would take turns.
    Replaced,
    /// It left by itself.
    Left,
}

impl Membership {
    /// Whether that partition is this member's to own.
    pub fn is_mine(&self, partition: u16) -> bool {
        let place = self.places.get(usize::from(partition));
        self.me.is_some() && place.is_some_and(|place| place.assigned == self.me)
    }

    /// The member that answers for that partition: who holds it, or who shall own it where nobody does.
    pub fn answers(&self, partition: u16) -> Option<&Member> {
        let place = self.places.get(usize::from(partition))?;
        self.members.get(place.holder.or(place.assigned)?)
    }

    /// By partition, who shall follow it so as to take it over warm: the first `count` of its
    /// [`heirs`] among those that take part, as indices into [`Membership::members`]. Fewer where there
    /// are fewer others, and nobody for a partition that is assigned to nobody.
    pub fn standbys(&self, count: usize) -> Vec<Vec<usize>> {
        let members = self.members.iter().enumerate();
        let (parts, names): (Vec<usize>, Vec<&str>) = members
            .filter(|(_, member)| member.takes_part)
            .map(|(at, member)| (at, &*member.name))
            .unzip();
        let part = |at: usize| parts.iter().position(|part| *part == at);
        let assigned = self
            .places
            .iter()
            .map(|place| place.assigned.and_then(part));
        let heirs = heirs(&assigned.collect::<Vec<_>>(), &names).into_iter();
        heirs
            .map(|heirs| {
                let first = heirs.into_iter().take(count);
                first.filter_map(|at| parts.get(at).copied()).collect()
            })
            .collect()
    }
}

/// By partition, the other members in the order in which they shall have it when its owner goes. A
/// function of its arguments alone, so that everybody who knows the members comes to the same.
///
/// The order is that of a hash of name and partition, so that it stays what it is when others come and
/// go, but for its first place: the first heirs of one owner's partitions are chosen so that each of
/// them can have them and all have as much as the others, where that was so before. A partition
/// without an owner has no heirs.
pub fn heirs(assigned: &[Option<usize>], names: &[&str]) -> Vec<Vec<usize>> {
    let mut owned: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
    for (partition, owner) in assigned.iter().enumerate() {
        if let Some(owned) = owner.and_then(|owner| owned.get_mut(owner)) {
            owned.push(partition);
        }
    }
    let mut heirs = vec![Vec::new(); assigned.len()];
    for (owner, partitions) in owned.iter().enumerate() {
        let others: Vec<usize> = (0..names.len()).filter(|at| *at != owner).collect();
        let mut counts: Vec<usize> = others
            .iter()
            .map(|at| owned.get(*at).map_or(0, Vec::len))
            .collect();
        for partition in partitions {
            let mut order: Vec<usize> = (0..others.len()).collect();
            order.sort_by_cached_key(|place| {
                let name = others.get(*place).and_then(|at| names.get(*at));
                let mut key = name.copied().unwrap_or_default().as_bytes().to_vec();
                key.extend_from_slice(&partition.to_be_bytes());
                Reverse(murmur2(&key))
            });
            let first = order
                .iter()
                .position(|place| has_room(&counts, *place, assigned.len()));
            if let Some(order) = first.and_then(|first| order.get_mut(..=first)) {
                order.rotate_right(1);
            }
            if let Some(count) = order.first().and_then(|place| counts.get_mut(*place)) {
                *count += 1;
            }
            let order = order.iter().filter_map(|place| others.get(*place).copied());
            if let Some(heirs) = heirs.get_mut(*partition) {
                *heirs = order.collect();
            }
        }
    }
    heirs
}

/// Whether whoever stands at that place of `counts`, which says how many partitions each has, can have
/// one more while `total` partitions are given out to them so that no two differ by more than one.
pub fn has_room(counts: &[usize], place: usize, total: usize) -> bool {
    let members = counts.len().max(1);
    let (least, more) = (total / members, total % members);
    let above: usize = counts.iter().map(|count| count.saturating_sub(least)).sum();
    counts
        .get(place)
        .is_some_and(|count| *count < least || *count == least && above < more)
}

/// A member's view of its cluster. Dropping it does not leave.
pub trait Cluster: Send + Sync + fmt::Debug {
    /// As it is known now.
    fn membership(&self) -> Arc<Membership>;

    /// Waits until a membership of a version other than `seen` is known, for `patience` at most, and
    /// gives the newest.
    fn wait(&self, seen: u64, patience: Duration) -> Arc<Membership>;

    /// `None` while nobody else can have been given what this member owns, as the others heard it a moment
    /// ago. Otherwise how long ago that was so for certain: since then they may have decided more than this
    /// member knows of.
    fn unheard(&self) -> Option<Duration>;

    /// Ends this member's warm-up: the others are told, and assign its share to it. Without effect where it
    /// takes part already.
    fn take_part(&self);

    /// Tells the others that this member goes: nothing is assigned to it any more. What it holds it
    /// must still give up, or it is fenced after a while.
    ///
    /// # Errors
    /// Why the others could not be told, in words. They find out by its silence.
    fn leave(&self) -> Result<(), String>;
}

/// The cluster of an instance that has its log for itself: every partition is its own.
#[derive(Debug)]
pub struct Alone(Arc<Membership>);

impl Alone {
    /// All of that many partitions are this instance's.
    pub fn new(name: &str, address: &str, partitions: u16) -> Self {
        let place = Place {
            assigned: Some(0),
            holder: Some(0),
        };
        Self(Arc::new(Membership {
            version: 1,
            members: vec![Member {
                name: name.into(),
                incarnation: name.into(),
                address: address.into(),
                takes_part: true,
            }],
            me: Some(0),
            places: vec![place; usize::from(partitions)],
            warm_up: None,
            ended: None,
        }))
    }
}

impl Cluster for Alone {
    fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.0)
    }

    fn wait(&self, _seen: u64, patience: Duration) -> Arc<Membership> {
        std::thread::sleep(patience);
        self.membership()
    }

    fn unheard(&self) -> Option<Duration> {
        None
    }

    fn take_part(&self) {}

    fn leave(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members of these names, of which the n-th owns partition p where `p % names == n`.
    fn even(names: &[&str], partitions: u16) -> Membership {
        let member = |name: &&str| Member {
            name: (*name).into(),
            incarnation: format!("{name}.1").into(),
            address: "host:1".into(),
            takes_part: true,
        };
        let place = |partition: u16| Place {
            assigned: Some(usize::from(partition) % names.len()),
            holder: None,
        };
        Membership {
            version: 1,
            members: names.iter().map(member).collect(),
            me: Some(0),
            places: (0..partitions).map(place).collect(),
            warm_up: None,
            ended: None,
        }
    }

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    #[test]
    fn standbys_are_others_as_many_as_asked_for_and_there_are() {
        for members in 1..=NAMES.len() {
            let membership = even(&NAMES[..members], 16);
            for count in 0..4 {
                for (partition, standbys) in membership.standbys(count).iter().enumerate() {
                    assert_eq!(standbys.len(), count.min(members - 1));
                    let mut all = standbys.clone();
                    all.push(partition % members);
                    all.sort_unstable();
                    all.dedup();
                    assert_eq!(all.len(), standbys.len() + 1, "its owner, or one twice");
                }
            }
        }
    }

    /// It may be gone again before anything is assigned to it.
    #[test]
    fn who_warms_up_is_nobodys_standby() {
        let two = even(&["a", "c"], 16);
        let mut three = even(&["a", "b", "c"], 16);
        three.members[1].takes_part = false;
        for (place, before) in three.places.iter_mut().zip(&two.places) {
            place.assigned = before.assigned.map(|at| 2 * at);
        }
        let name = |of: &Membership, at: &usize| of.members[*at].name.to_string();
        let named = |of: &Membership| -> Vec<Vec<String>> {
            let standbys = of.standbys(2).into_iter();
            standbys
                .map(|all| all.iter().map(|at| name(of, at)).collect())
                .collect()
        };
        assert_eq!(named(&two), named(&three));
    }

    #[test]
    fn first_standbys_can_have_all_that_one_owner_has() {
        for members in 2..=NAMES.len() {
            for partitions in [1, 3, 8, 16, 100] {
                let membership = even(&NAMES[..members], partitions);
                let standbys = membership.standbys(1);
                for gone in 0..members {
                    let mut counts = vec![0; members];
                    for (place, standbys) in membership.places.iter().zip(&standbys) {
                        let owner = place.assigned.unwrap();
                        counts[if owner == gone { standbys[0] } else { owner }] += 1;
                    }
                    counts.remove(gone);
                    let (most, least) = (counts.iter().max(), counts.iter().min());
                    assert!(
                        most.unwrap() - least.unwrap() <= 1,
                        "{members} members, {partitions} partitions, without {gone}: {counts:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn standbys_of_what_stays_mostly_stay_when_a_member_goes() {
        let before = even(&NAMES, 96);
        let standbys = before.standbys(2);
        // The last one goes: all that it had is its heirs', and everybody else's place is as it was.
        let gone = NAMES.len() - 1;
        let mut after = before;
        after.members.pop();
        for (place, heirs) in after.places.iter_mut().zip(&standbys) {
            if place.assigned == Some(gone) {
                place.assigned = Some(heirs[0]);
            }
        }
        let mut stay = 0;
        for (partition, after) in after.standbys(2).iter().enumerate() {
            let before = &standbys[partition];
            let is_first = !before.contains(&gone) && after[0] == before[0];
            stay += usize::from(is_first && partition % NAMES.len() != gone);
        }
        // Of 80 that did not move about 48 were not followed by who went.
        assert!(stay >= 32, "{stay} keep their first standby");
    }

    #[test]
    fn what_nobody_owns_has_no_heirs() {
        assert_eq!(heirs(&[None, Some(0)], &["a", "b"]), [vec![], vec![1]]);
        assert_eq!(heirs(&[Some(0)], &["a"]), [Vec::<usize>::new()]);
        assert_eq!(heirs(&[Some(7)], &["a"]), [Vec::<usize>::new()]);
    }
}
