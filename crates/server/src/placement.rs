//! Opening here what is assigned to this instance, and closing what is not.
//!
//! One thread follows the membership. Two others do what it takes, a partition each at a time: closing
//! before opening, since somebody waits for what is given up. What cannot be opened now is tried again.
//!
//! The same thread says what is followed here for others: a partition is let go only once it is known for
//! a while who has which, so that a standby is there when its owner's death is being sorted out. While
//! this instance warms up it follows what is going to be assigned to it, and takes part once it is level
//! with the owners of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onhand_flows::Stock;
use onhand_log::cluster::{Cluster, Ended, Membership};
use onhand_streams::Opener;
use tokio::sync::watch;

use crate::residents::Resident;
use crate::standing_by::StandingBy;

/// Partitions that are opened or closed at a time: restoring keeps a core and the log's readers busy,
/// and what is open goes on beside it.
const MOVERS: usize = 2;

/// How long the membership is waited for before it is looked whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Pauses before what failed is tried again: doubled up to the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A standby that shows what is so old at most is level with its owner: it is asked five times a second
/// where that ends.
const LEVEL: Duration = Duration::from_secs(2);

/// How long all partitions may take to close when the node ends. What is not closed then is fenced by
/// whoever takes it over.
const CLOSE_ALL: Duration = Duration::from_secs(20);

/// What opens and closes partitions themselves.
pub(crate) trait Partitions: Send + Sync {
    /// `Ok(Some(why))`: it is open, and will do no work.
    fn open(&self, partition: u16) -> Result<Option<String>, String>;
    fn close(&self, partition: u16) -> Result<(), String>;
    /// Follows `wanted` and lets go of the rest, but for those of `keep` that are followed.
    fn follow(&self, wanted: &BTreeSet<u16>, keep: &BTreeSet<u16>) -> Result<(), String>;
    fn followed(&self) -> BTreeSet<u16>;
    /// How old what the standby of that partition shows may be; `None` where there is none, or it never
    /// was level with its owner.
    fn stale(&self, partition: u16) -> Option<Duration>;
    /// What an opening under way has still to read, in offsets.
    fn left(&self, partition: u16) -> u64;
}

impl Partitions for Opener<Stock> {
    fn open(&self, partition: u16) -> Result<Option<String>, String> {
        match Self::open(self, partition) {
            Ok(_) => Ok(None),
            Err(error) if error.may_pass() => Err(error.to_string()),
            Err(onhand_streams::RestoreError::Stopped(why)) => Err(why),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    fn close(&self, partition: u16) -> Result<(), String> {
        Self::close(self, partition).map_err(|error| error.to_string())
    }

    fn follow(&self, wanted: &BTreeSet<u16>, keep: &BTreeSet<u16>) -> Result<(), String> {
        let followed = self.standbys().follow(wanted, keep);
        followed.map_err(|error| error.to_string())
    }

    fn followed(&self) -> BTreeSet<u16> {
        self.standbys().followed()
    }

    fn stale(&self, partition: u16) -> Option<Duration> {
        self.standbys().of(partition)?.stale
    }

    fn left(&self, partition: u16) -> u64 {
        Self::left(self, partition)
    }
}

#[derive(Default)]
struct State {
    /// Assigned to this instance.
    wanted: BTreeSet<u16>,
    open: BTreeSet<u16>,
    /// Being opened or closed.
    busy: BTreeSet<u16>,
    /// What failed: when to try again, and the pause after that.
    failed: BTreeMap<u16, (Instant, Duration)>,
    moves: u64,
    /// What is said of once it is done.
    spell: Spell,
    takes_part: bool,
    /// Nothing is opened any more.
    leaving: bool,
    stop: bool,
}

/// The moves since everything was last where it is assigned.
#[derive(Default)]
struct Spell {
    since: Option<Instant>,
    opened: u64,
    closed: u64,
}

enum Move {
    Open(u16),
    Close(u16),
}

impl State {
    fn next(&self, now: Instant) -> Option<Move> {
        let free = |partition: &&u16| !self.busy.contains(partition);
        let is_wanted = |partition: &u16| self.wanted.contains(partition) && !self.leaving;
        let mut open = self.open.iter().filter(free);
        if let Some(partition) = open.find(|partition| !is_wanted(partition)) {
            return Some(Move::Close(*partition));
        }
        let waits = |partition: &u16| self.failed.get(partition).is_some_and(|(at, _)| *at > now);
        let mut missing = self.wanted.iter().filter(free).filter(|partition| {
            is_wanted(partition) && !self.open.contains(partition) && !waits(partition)
        });
        missing.next().copied().map(Move::Open)
    }

    /// Says once what all the moves of a change came to: there may be a thousand.
    fn say(&mut self) {
        let is_there = if self.leaving {
            self.open.is_empty()
        } else {
            self.open == self.wanted
        };
        if !is_there || !self.busy.is_empty() {
            return;
        }
        let Spell {
            since: Some(since),
            opened,
            closed,
        } = std::mem::take(&mut self.spell)
        else {
            return;
        };
        let (open, took) = (self.open.len(), since.elapsed());
        tracing::info!(open, opened, closed, ?took, "partitions moved");
    }
}

/// How it stands.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// Open here.
    pub(crate) owned: u64,
    /// Assigned here and not open yet.
    pub(crate) opening: u64,
    /// Opened and closed since the start.
    pub(crate) moves: u64,
    /// This instance takes part, and everything assigned to it is open.
    pub(crate) is_settled: bool,
}

/// See the module.
pub(crate) struct Placement {
    state: Mutex<State>,
    changed: Condvar,
    partitions: Box<dyn Partitions>,
    residents: Vec<Arc<dyn Resident>>,
    cluster: Arc<dyn Cluster>,
    /// Held by those who must not see a partition open meanwhile.
    opening: Arc<RwLock<()>>,
    /// How many follow each partition.
    standbys: usize,
    /// Most time that this instance warms up.
    warm_up: Duration,
    ended: watch::Sender<Option<Ended>>,
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement").finish_non_exhaustive()
    }
}

/// The running threads. They end by [`Running::stop`].
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) placement: Arc<Placement>,
    threads: Vec<JoinHandle<()>>,
}

impl Placement {
    pub(crate) fn new(
        partitions: Box<dyn Partitions>,
        residents: Vec<Arc<dyn Resident>>,
        cluster: Arc<dyn Cluster>,
        opening: Arc<RwLock<()>>,
        standbys: usize,
        warm_up: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            partitions,
            residents,
            cluster,
            opening,
            standbys,
            warm_up,
            ended: watch::Sender::new(None),
        })
    }

    /// Starts the threads. `open` are open already.
    pub(crate) fn start(self: Arc<Self>, open: Vec<u16>) -> std::io::Result<Running> {
        {
            let mut state = self.lock();
            state.open.extend(open);
            self.note(&mut state, &self.cluster.membership());
        }
        let mut running = Running {
            placement: Arc::clone(&self),
            threads: Vec::new(),
        };
        let following = Arc::clone(&self);
        let thread = std::thread::Builder::new().name("placement".to_owned());
        running
            .threads
            .push(thread.spawn(move || following.follow())?);
        for number in 0..MOVERS {
            let moving = Arc::clone(&self);
            let thread = std::thread::Builder::new().name(format!("mover-{number}"));
            running.threads.push(thread.spawn(move || moving.work())?);
        }
        Ok(running)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        let opening = state.wanted.difference(&state.open).count() as u64;
        Standing {
            owned: state.open.len() as u64,
            opening,
            moves: state.moves,
            is_settled: state.takes_part && !state.leaving && opening == 0,
        }
    }

    /// Told when this member's run has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn note(&self, state: &mut State, membership: &Membership) {
        let me = membership.me.and_then(|me| membership.members.get(me));
        state.takes_part = me.is_some_and(|me| me.takes_part) && membership.ended.is_none();
        let all = 0..u16::try_from(membership.places.len()).unwrap_or(u16::MAX);
        state.wanted = all
            .filter(|partition| membership.is_mine(*partition))
            .collect();
        if membership.ended.is_some() {
            let _ = self.ended.send_replace(membership.ended);
        }
    }

    /// What the opening of that partition has still to read, in offsets; 0 where none is under way.
    pub(crate) fn left(&self, partition: u16) -> u64 {
        self.partitions.left(partition)
    }

    /// Follows what shall be followed, and keeps what is about to be opened here.
    fn stand_by(&self, wanted: &BTreeSet<u16>) {
        let followed = self.partitions.followed();
        let state = self.lock();
        let is_here = |p: &&u16| state.open.contains(p) || state.wanted.contains(p);
        let wanted: BTreeSet<u16> = wanted.iter().filter(|p| !is_here(p)).copied().collect();
        let opens = |p: &&u16| state.wanted.contains(p) && !state.open.contains(p);
        let keep: BTreeSet<u16> = followed.iter().filter(opens).copied().collect();
        drop(state);
        if followed == &wanted | &keep {
            return;
        }
        if let Err(error) = self.partitions.follow(&wanted, &keep) {
            tracing::warn!(error, "partitions are not followed");
        }
    }

    /// Takes part once all that is coming is level, or this took long enough. Whoever comes before is waited
    /// for, as what is coming rests on that.
    fn warm_up(&self, membership: &Membership, since: &mut Option<Instant>) {
        let Some(warm_up) = &membership.warm_up else {
            return;
        };
        let partitions = warm_up.coming.len();
        let since = since.get_or_insert_with(|| {
            tracing::info!(
                partitions,
                "warming up: following what is going to be assigned"
            );
            Instant::now()
        });
        let stale = |partition: &u16| self.partitions.stale(*partition);
        let is_level = |partition: &u16| stale(partition).is_some_and(|stale| stale <= LEVEL);
        let level = warm_up.coming.iter().filter(|p| is_level(p)).count();
        let took = since.elapsed();
        if level == partitions && warm_up.is_next {
            tracing::info!(partitions, ?took, "warm; taking part");
        } else if took >= self.warm_up {
            tracing::warn!(
                partitions,
                level,
                ?took,
                "not warm in time; taking part all the same, and what is not level is restored first"
            );
        } else {
            return;
        }
        self.cluster.take_part();
    }

    fn follow(&self) {
        let mut seen = None;
        let mut standing_by = StandingBy::new(self.standbys);
        let mut warms_up = None;
        let mut names: Vec<Arc<str>> = Vec::new();
        loop {
            let membership = match seen {
                None => self.cluster.membership(),
                Some(seen) => self.cluster.wait(seen, PATIENCE),
            };
            let is_new = seen != Some(membership.version);
            seen = Some(membership.version);
            let follow = standing_by.wanted(&membership);
            let mut state = self.lock();
            if state.stop {
                return;
            }
            if is_new {
                self.note(&mut state, &membership);
                drop(state);
                self.changed.notify_all();
                let members = membership.members.iter();
                let now: Vec<_> = members.map(|one| Arc::clone(&one.name)).collect();
                if now != names {
                    tracing::info!(instances = now.join(" "), "these share the log");
                    names = now;
                }
            } else {
                drop(state);
            }
            if let Some(wanted) = follow {
                self.stand_by(&wanted);
            }
            self.warm_up(&membership, &mut warms_up);
        }
    }

    /// One of those who move.
    fn work(&self) {
        let mut state = self.lock();
        while !state.stop {
            let Some(next) = state.next(Instant::now()) else {
                let waited = self.changed.wait_timeout(state, RETRY_MIN);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            let (Move::Open(partition) | Move::Close(partition)) = next;
            state.busy.insert(partition);
            state.spell.since.get_or_insert_with(Instant::now);
            drop(state);
            let began = Instant::now();
            let moved = match next {
                Move::Open(_) => self.open(partition),
                Move::Close(_) => {
                    self.close(partition);
                    Ok(())
                }
            };
            let took = began.elapsed();
            state = self.lock();
            state.busy.remove(&partition);
            match (next, moved) {
                (Move::Open(_), Ok(())) => {
                    state.moves += 1;
                    state.spell.opened += 1;
                    state.open.insert(partition);
                    state.failed.remove(&partition);
                    tracing::debug!(partition, ?took, "partition opened");
                }
                (Move::Open(_), Err(error)) => {
                    let last = state.failed.get(&partition).map(|(_, pause)| *pause);
                    let pause = last.map_or(RETRY_MIN, |last| (last * 2).min(RETRY_MAX));
                    state
                        .failed
                        .insert(partition, (Instant::now() + pause, pause));
                    tracing::warn!(partition, error, again_in = ?pause, "partition not opened");
                }
                (Move::Close(_), _) => {
                    state.moves += 1;
                    state.spell.closed += 1;
                    state.open.remove(&partition);
                    tracing::debug!(partition, ?took, "partition closed");
                }
            }
            state.say();
            self.changed.notify_all();
        }
    }

    fn open(&self, partition: u16) -> Result<(), String> {
        // Whoever is in the middle of handing packs over has done so before it opens.
        drop(self.opening.write());
        if let Some(why) = self.partitions.open(partition)? {
            tracing::error!(partition, why, "the partition is taken, and does no work");
            return Ok(());
        }
        self.residents.iter().for_each(|one| one.open(partition));
        Ok(())
    }

    fn close(&self, partition: u16) {
        self.residents
            .iter()
            .rev()
            .for_each(|one| one.close(partition));
        let closed = self.partitions.close(partition);
        if self.ended.borrow().is_some() {
            // Others have everything already.
            return;
        }
        if let Err(error) = closed {
            tracing::warn!(
                partition,
                error,
                "the partition was not given up; its next owner fences us"
            );
        }
    }

    /// Opens nothing more, and waits until everything is closed, at most for a while.
    pub(crate) fn close_all(&self) {
        let until = Instant::now() + CLOSE_ALL;
        let mut state = self.lock();
        state.leaving = true;
        self.changed.notify_all();
        while !(state.open.is_empty() && state.busy.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(
                    open = state.open.len(),
                    "partitions were not closed in time"
                );
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Running {
    /// Moves nothing more and ends the threads, once what they have begun is done.
    pub(crate) fn stop(&mut self) {
        self.placement.lock().stop = true;
        self.placement.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that moves partitions panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
