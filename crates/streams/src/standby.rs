//! Standbys: the state of partitions that others own, kept up with the log in memory.
//!
//! ```text
//!  follow ─► [restore: snapshot or changelog, redo] ─► [follow: redo, as it becomes durable] ─► reads
//!                                                          │  a claim (Opener::open)
//!                                                          └─► the redo that is left ─► a task
//! ```
//!
//! A standby claims nothing, decides nothing and writes nothing but snapshot files. It applies only what
//! is durable. Whoever opens the partition here takes its state over behind the claim, and has to read
//! what it had not read yet. A state that does not fit the log is thrown away and restored anew, after a
//! pause that doubles up to [`RETRY_MAX`].
//!
//! **How stale it is.** The log is asked at even times where everything ends that anybody was told is
//! durable ([`Log::told_end`]). Once the standby has applied all up to there, it was level at the time
//! of that question: what it shows is at most as old as that question. While nobody answers, or
//! something undecided stands before that end, its age grows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onhand_log::{Log, Offset, Progress, View};

use crate::processor::Processor;
use crate::restore::{self, Reading, RestoreError};
use crate::snapshot::{LogMark, SnapshotBuilder, SnapshotDir};
use crate::task::{TaskSpec, Topics, guarded};
use crate::warm::Warm;

/// How much redo is applied at once: reads of the state wait for it.
const STEP_BYTES: usize = 256 << 10;

/// The longest that a standby waits before it looks for more.
const LOOK: Duration = Duration::from_millis(100);

/// The shortest: what comes meanwhile is applied together.
const BREATH: Duration = Duration::from_millis(5);

/// How often the log is asked where it ends. A standby is stale by about so much at most while all is
/// well.
const ASK: Duration = Duration::from_millis(200);

/// Pauses before what failed is tried again: doubled up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What is known of one standby.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Following {
    /// Whether its state is whole and follows the log; before, it is being restored.
    pub is_warm: bool,
    /// Offsets between what it has applied, or restored, and the end, as far as that is known.
    pub lag: u64,
    /// How old what it shows may be: the time since it was last known to lack nothing. `None` before
    /// that was so for the first time.
    pub stale: Option<Duration>,
}

/// Follows partitions for a worker, and answers from them. Clones share the standbys.
pub struct Standbys<P: Processor>(Arc<Inner<P>>);

struct Inner<P: Processor> {
    log: Arc<dyn Log>,
    name: Arc<str>,
    topics: Topics,
    make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    snapshots: Option<SnapshotDir>,
    snapshot_redo_bytes: usize,
    slots: Mutex<BTreeMap<u16, Arc<Slot<P>>>>,
    /// Something may be there to apply, to restore or to ask.
    stirred: Mutex<bool>,
    stir: Condvar,
    stop: AtomicBool,
    taken: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// One standby.
pub(crate) struct Slot<P> {
    spec: TaskSpec,
    /// It is not wanted any more, or was taken over.
    gone: AtomicBool,
    /// Offsets still to be read.
    left: AtomicU64,
    state: Mutex<State<P>>,
}

struct State<P> {
    warm: Option<Warm<P>>,
    /// When it lacked nothing.
    level: Option<Instant>,
    /// When the log was asked last where it ends, and what it said, until that is reached.
    asked: Option<(Instant, Offset)>,
    /// What failed is not tried before then, and the pause.
    retry: Option<(Instant, Duration)>,
}

impl<P> Slot<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        // A panic in applying is caught, and what it left is thrown away.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl<P> State<P> {
    fn failed(&mut self) -> Duration {
        let last = self.retry.map(|(_, pause)| pause);
        let pause = last.map_or(RETRY_MIN, |last| (last * 2).min(RETRY_MAX));
        self.retry = Some((Instant::now() + pause, pause));
        pause
    }

    fn is_due(&self) -> bool {
        self.retry.is_none_or(|(at, _)| Instant::now() >= at)
    }
}

impl<P: Processor> Clone for Standbys<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Processor> fmt::Debug for Standbys<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Standbys").field(&self.all()).finish()
    }
}

impl<P: Processor> Standbys<P> {
    pub(crate) fn new(
        log: &Arc<dyn Log>,
        name: &str,
        topics: Topics,
        make: &Arc<dyn Fn(u16) -> P + Send + Sync>,
        snapshots: Option<SnapshotDir>,
        snapshot_redo_bytes: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            log: Arc::clone(log),
            name: name.into(),
            topics,
            make: Arc::clone(make),
            snapshots,
            snapshot_redo_bytes,
            slots: Mutex::default(),
            stirred: Mutex::new(false),
            stir: Condvar::new(),
            stop: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            threads: Mutex::default(),
        }))
    }

    /// Follows these partitions from now on, and lets go of what it followed beside them, with its
    /// memory, but for those of `keep`: they are followed on where they are. None of them may be open
    /// in this worker. It returns at once: restoring happens on a thread of its own, one partition after
    /// another.
    ///
    /// A partition that is opened ([`Opener::open`](crate::Opener::open)) is not followed any more. Once
    /// the worker has stopped nothing is followed.
    ///
    /// # Errors
    /// When the threads could not be started; nothing is followed.
    pub fn follow(&self, partitions: &BTreeSet<u16>, keep: &BTreeSet<u16>) -> std::io::Result<()> {
        let inner = &self.0;
        {
            let mut slots = inner.slots();
            slots.retain(|partition, slot| {
                let stays = partitions.contains(partition) || keep.contains(partition);
                slot.gone.fetch_or(!stays, Ordering::SeqCst);
                stays
            });
            if inner.is_stopped() || partitions.is_empty() {
                return Ok(());
            }
            for partition in partitions {
                slots.entry(*partition).or_insert_with(|| {
                    Arc::new(Slot {
                        spec: TaskSpec {
                            name: Arc::clone(&inner.name),
                            topics: inner.topics,
                            partition: *partition,
                        },
                        gone: AtomicBool::new(false),
                        left: AtomicU64::new(0),
                        state: Mutex::new(State {
                            warm: None,
                            level: None,
                            asked: None,
                            retry: None,
                        }),
                    })
                });
            }
        }
        self.start().inspect_err(|_| inner.slots().clear())?;
        inner.stir();
        Ok(())
    }

    /// Partitions that were taken over from a standby here since the start.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The partitions that are followed.
    pub fn followed(&self) -> BTreeSet<u16> {
        self.0.slots().keys().copied().collect()
    }

    /// What is known of a partition's standby; `None` where it has none here.
    pub fn of(&self, partition: u16) -> Option<Following> {
        let slot = self.0.slot(partition)?;
        let state = slot.lock();
        Some(Following {
            is_warm: state.warm.is_some(),
            lag: slot.left.load(Ordering::Relaxed),
            stale: state.level.map(|level| level.elapsed()),
        })
    }

    /// What is known of all of them, by partition.
    pub fn all(&self) -> Vec<(u16, Following)> {
        let partitions = self.followed().into_iter();
        partitions
            .filter_map(|partition| Some((partition, self.of(partition)?)))
            .collect()
    }

    /// Asks the standby of that partition, where it has one here and what it shows is at most `most` old.
    /// Says with the answer how old it may be. It may wait for a chunk of redo to be applied, and
    /// `question` must be short: nothing is applied meanwhile.
    pub fn ask<R>(
        &self,
        partition: u16,
        most: Duration,
        question: impl FnOnce(&mut P) -> R,
    ) -> Option<(R, Duration)> {
        let slot = self.0.slot(partition)?;
        let mut state = slot.lock();
        let level = state.level.filter(|level| level.elapsed() <= most)?;
        let answer = question(&mut state.warm.as_mut()?.processor);
        Some((answer, level.elapsed()))
    }

    /// The standby of a partition that was claimed here, brought up to all that is durable, and how many
    /// records that took. `None` where there is none that can be taken over.
    ///
    /// # Errors
    /// What may pass: the standby is where it was.
    pub(crate) fn catch_up(
        &self,
        partition: u16,
    ) -> Result<Option<(Arc<Slot<P>>, u64)>, RestoreError> {
        let mut records = 0;
        let Some(slot) = self.0.slot(partition) else {
            return Ok(None);
        };
        loop {
            match self.0.apply_some(&slot) {
                Ok(Step::Cold) => {
                    // Being restored: whoever has claimed it does that with more right.
                    self.0.drop_slot(partition);
                    return Ok(None);
                }
                Ok(Step::AtEnd(_)) => return Ok(Some((slot, records))),
                Ok(Step::Moved(more)) => records += more,
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    tracing::error!(partition, %error, "a standby does not fit the log, restoring");
                    self.0.drop_slot(partition);
                    return Ok(None);
                }
            }
        }
    }

    /// Takes the state out of a standby that was caught up.
    pub(crate) fn take(&self, slot: &Slot<P>) -> Option<Warm<P>> {
        self.0.drop_slot(slot.spec.partition);
        let warm = slot.lock().warm.take();
        self.0
            .taken
            .fetch_add(u64::from(warm.is_some()), Ordering::Relaxed);
        warm
    }

    fn start(&self) -> std::io::Result<()> {
        let inner = &self.0;
        let mut threads = inner.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if !threads.is_empty() || inner.is_stopped() {
            return Ok(());
        }
        let listening = Arc::downgrade(inner);
        let work: [(&str, fn(&Inner<P>)); 3] = [
            ("standby", Inner::follow),
            ("standby-restore", Inner::restore),
            ("standby-ask", Inner::ask_ends),
        ];
        for (name, work) in work {
            let inner = Arc::clone(inner);
            let thread = std::thread::Builder::new().name(name.to_owned());
            threads.push(thread.spawn(move || work(&inner))?);
        }
        inner.log.listen(Box::new(move |progress| {
            if let (Progress::Appended | Progress::Durable, Some(inner)) =
                (progress, listening.upgrade())
            {
                inner.stir();
            }
        }));
        Ok(())
    }

    /// Follows nothing any more, writes snapshots where they shorten a restart, and ends the threads.
    pub(crate) fn end(&self) {
        let inner = &self.0;
        inner.stop.store(true, Ordering::SeqCst);
        let slots = std::mem::take(&mut *inner.slots());
        for slot in slots.values() {
            slot.gone.store(true, Ordering::SeqCst);
        }
        inner.stir();
        let threads =
            std::mem::take(&mut *inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the standbys panicked");
            }
        }
        for slot in slots.values() {
            inner.snapshot(slot, |warm| warm.is_snapshot_worth_it());
        }
    }
}

/// What applying the next chunk came to.
enum Step {
    /// Nothing is restored yet.
    Cold,
    /// So many records were applied, and there may be more.
    Moved(u64),
    /// Nothing more was there, and everything below this offset had been looked at.
    AtEnd(Offset),
}

impl<P: Processor> Inner<P> {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Slot<P>>>> {
        // Nothing under this lock can leave it half done.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, partition: u16) -> Option<Arc<Slot<P>>> {
        self.slots().get(&partition).cloned()
    }

    fn drop_slot(&self, partition: u16) {
        if let Some(slot) = self.slots().remove(&partition) {
            slot.gone.store(true, Ordering::SeqCst);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn stir(&self) {
        *self.stirred.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stir.notify_all();
    }

    fn wait(&self, patience: Duration) {
        let stirred = self.stirred.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = |stirred: &mut bool| !*stirred && !self.is_stopped();
        let waited = self.stir.wait_timeout_while(stirred, patience, stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// Sleeps, but for the stop.
    fn pause(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.is_stopped() && Instant::now() < until {
            std::thread::sleep(BREATH.min(patience));
        }
    }

    fn all(&self) -> Vec<Arc<Slot<P>>> {
        self.slots().values().cloned().collect()
    }

    /// The thread that applies.
    fn follow(&self) {
        while !self.is_stopped() {
            let mut more = false;
            for slot in self.all() {
                more |= self.step(&slot);
                self.snapshot(&slot, |warm| warm.is_snapshot_due(self.snapshot_redo_bytes));
            }
            if !more {
                self.pause(BREATH);
                self.wait(LOOK);
            }
        }
    }

    /// Applies some. Whether there may be more.
    fn step(&self, slot: &Slot<P>) -> bool {
        if slot.is_gone() || !slot.lock().is_due() {
            return false;
        }
        let partition = slot.spec.partition;
        match self.apply_some(slot) {
            Ok(Step::Cold) => false,
            Ok(Step::Moved(_)) => true,
            Ok(Step::AtEnd(end)) => {
                let mut state = slot.lock();
                state.retry = None;
                let mut left = 0;
                if let Some((asked, told)) = state.asked {
                    if end >= told {
                        (state.level, state.asked) = (Some(asked), None);
                    } else {
                        left = u64::try_from(told - end).unwrap_or(0);
                    }
                }
                slot.left.store(left, Ordering::Relaxed);
                false
            }
            Err(error) => {
                let mut state = slot.lock();
                let again_in = state.failed();
                if error.may_pass() {
                    tracing::warn!(partition, %error, ?again_in, "a standby does not get on");
                } else {
                    tracing::error!(partition, %error, ?again_in,
                        "a standby does not fit the log, restoring");
                    (state.warm, state.level, state.asked) = (None, None, None);
                }
                false
            }
        }
    }

    /// Reads the next chunk without the lock, which readers of the state wait for, and applies it.
    fn apply_some(&self, slot: &Slot<P>) -> Result<Step, RestoreError> {
        let spec = &slot.spec;
        let (redo, changelog) = (spec.at(spec.topics.redo), spec.at(spec.topics.changelog));
        let places = slot.lock().warm.as_ref().map(Warm::places);
        let Some(places) = places else {
            return Ok(Step::Cold);
        };
        let end = self.log.bounds(redo, View::Durable)?.end;
        let fetch = self
            .log
            .read(redo, places.redo, STEP_BYTES, View::Durable)?;
        let marks = self
            .log
            .read(changelog, places.changelog, STEP_BYTES, View::Durable)?;
        let mut state = slot.lock();
        let Some(warm) = state.warm.as_mut() else {
            return Ok(Step::Cold);
        };
        if warm.places() != places {
            // Whoever opens it has been here.
            return Ok(Step::Moved(0));
        }
        let applied = guarded(spec, || {
            let records = warm.apply(&fetch).map_err(|what| spec.unfit(what))?;
            let noted = warm.note_marks(&marks);
            noted.map_err(|what| spec.unfit(what))?;
            Ok(records)
        });
        let records = match applied {
            Ok(records) => records,
            Err(error) => {
                // It may be half applied.
                (state.warm, state.level, state.asked) = (None, None, None);
                return Err(error);
            }
        };
        let left = end.saturating_sub(fetch.next);
        let left = u64::try_from(left).unwrap_or(0);
        if fetch.next == places.redo && marks.next == places.changelog {
            return Ok(Step::AtEnd(end));
        }
        slot.left.store(left, Ordering::Relaxed);
        Ok(Step::Moved(records))
    }

    /// Writes a snapshot where `is_due` says so.
    fn snapshot(&self, slot: &Slot<P>, is_due: impl Fn(&Warm<P>) -> bool) {
        let Some(dir) = &self.snapshots else {
            return;
        };
        let builder = {
            let mut state = slot.lock();
            let Some(warm) = state.warm.as_mut().filter(|warm| is_due(warm)) else {
                return;
            };
            let mut builder = SnapshotBuilder::new(LogMark::of(self.log.as_ref()), warm.next(), 0);
            match warm.export(&mut builder) {
                Ok(()) => builder,
                Err(what) => {
                    let error = slot.spec.unfit(what);
                    tracing::error!(%error, "a standby is thrown away");
                    (state.warm, state.level, state.asked) = (None, None, None);
                    return;
                }
            }
        };
        crate::opener::store_snapshot(dir, &slot.spec.owner(), builder);
    }

    /// The thread that restores.
    fn restore(&self) {
        while !self.is_stopped() {
            let is_wanted = |slot: &Arc<Slot<P>>| {
                let state = slot.lock();
                !slot.is_gone() && state.warm.is_none() && state.is_due()
            };
            match self.all().into_iter().find(is_wanted) {
                Some(slot) => self.restore_one(&slot),
                None => self.pause(LOOK),
            }
        }
    }

    fn restore_one(&self, slot: &Slot<P>) {
        let (spec, partition) = (&slot.spec, slot.spec.partition);
        let began = Instant::now();
        let reading = Reading {
            log: self.log.as_ref(),
            spec,
            view: View::Durable,
            left: &slot.left,
            cancelled: Some(&slot.gone),
        };
        let make = || (self.make)(partition);
        let changelog = spec.at(spec.topics.changelog);
        let restored = guarded(spec, || {
            // What rounds end behind this is looked at later, once.
            let from = self.log.bounds(changelog, View::Durable)?.end;
            let whole = restore::restore(reading, &make, self.snapshots.as_ref())?;
            Ok((whole, from))
        });
        let mut state = slot.lock();
        match restored {
            Ok((whole, changelog)) => {
                let report = whole.restored;
                state.warm = Some(Warm::of(whole, changelog));
                state.retry = None;
                drop(state);
                tracing::info!(partition, took = ?began.elapsed(), ?report, "a standby is warm");
                self.stir();
            }
            Err(_) if slot.is_gone() => {}
            Err(error) => {
                let again_in = state.failed();
                if error.may_pass() {
                    tracing::warn!(partition, %error, ?again_in, "a standby is not restored");
                } else {
                    tracing::error!(partition, %error, ?again_in, "a standby is not restored");
                }
            }
        }
    }

    /// The thread that asks where the log ends.
    fn ask_ends(&self) {
        // Who does not answer is not asked again soon: others wait behind it.
        let mut silent: BTreeMap<u16, (Instant, Duration)> = BTreeMap::new();
        while !self.is_stopped() {
            for slot in self.all() {
                let partition = slot.spec.partition;
                let waits = {
                    let state = slot.lock();
                    state.warm.is_none() || state.asked.is_some()
                };
                let is_silent = silent
                    .get(&partition)
                    .is_some_and(|(until, _)| Instant::now() < *until);
                if waits || is_silent || slot.is_gone() || self.is_stopped() {
                    continue;
                }
                let asked = Instant::now();
                match self.log.told_end(slot.spec.at(slot.spec.topics.redo)) {
                    Ok(end) => {
                        silent.remove(&partition);
                        slot.lock().asked = Some((asked, end));
                    }
                    Err(error) => {
                        let last = silent.get(&partition).map(|(_, pause)| *pause);
                        let pause = last.map_or(RETRY_MIN, |last| (last * 2).min(RETRY_MAX));
                        silent.insert(partition, (Instant::now() + pause, pause));
                        tracing::warn!(partition, %error, again_in = ?pause,
                            "how stale a standby is cannot be asked");
                    }
                }
            }
            self.stir();
            self.pause(ASK);
        }
    }
}
