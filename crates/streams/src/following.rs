//! What the threads of the standbys do: one restores, one applies, one asks where the log ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onhand_log::{Log, Offset, View};

use crate::processor::Processor;
use crate::restore::{self, Reading, RestoreError};
use crate::snapshot::{LogMark, SnapshotDir};
use crate::task::{TaskSpec, Topics, guarded};
use crate::warm::Warm;

/// How much redo is applied at once: reads of the state wait for it.
const STEP_BYTES: usize = 256 << 10;

/// The longest that a standby waits before it looks for more.
const LOOK: Duration = Duration::from_millis(100);

/// The shortest: what comes meanwhile is applied together.
const BREATH: Duration = Duration::from_millis(5);

/// How soon a stop is noticed in a pause.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// How often the log is asked where it ends. A standby is stale by about so much at most while all is
/// well.
const ASK: Duration = Duration::from_millis(200);

/// Pauses before what failed is tried again: doubled up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What the standbys of a worker share.
pub(crate) struct Inner<P: Processor> {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) name: Arc<str>,
    pub(crate) topics: Topics,
    pub(crate) make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    pub(crate) snapshots: Option<SnapshotDir>,
    pub(crate) snapshot_redo_bytes: usize,
    pub(crate) slots: Mutex<BTreeMap<u16, Arc<Slot<P>>>>,
    /// Something may be there to apply, to restore or to ask.
    pub(crate) stirred: Mutex<bool>,
    pub(crate) stir: Condvar,
    pub(crate) stop: AtomicBool,
    pub(crate) taken: AtomicU64,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

/// One standby.
pub(crate) struct Slot<P> {
    pub(crate) spec: TaskSpec,
    /// It is not wanted any more, or was taken over.
    pub(crate) gone: AtomicBool,
    /// Offsets still to be read.
    pub(crate) left: AtomicU64,
    pub(crate) state: Mutex<State<P>>,
}

pub(crate) struct State<P> {
    pub(crate) warm: Option<Warm<P>>,
    /// When it lacked nothing.
    pub(crate) level: Option<Instant>,
    /// When the log was asked last where it ends, and what it said, until that is reached.
    pub(crate) asked: Option<(Instant, Offset)>,
    /// What failed is not tried before then, and the pause.
    pub(crate) retry: Option<(Instant, Duration)>,
}

impl<P> Slot<P> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<P>> {
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

/// What applying the next chunk came to.
pub(crate) enum Step {
    /// Nothing is restored yet.
    Cold,
    /// So many records were applied, and there may be more.
    Moved(u64),
    /// Nothing more was there, and everything below this offset had been looked at.
    AtEnd(Offset),
}

impl<P: Processor> Inner<P> {
    pub(crate) fn slots(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Slot<P>>>> {
        // Nothing under this lock can leave it half done.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new_slot(&self, partition: u16) -> Slot<P> {
        Slot {
            spec: TaskSpec {
                name: Arc::clone(&self.name),
                topics: self.topics,
                partition,
            },
            gone: AtomicBool::new(false),
            left: AtomicU64::new(0),
            state: Mutex::new(State {
                warm: None,
                level: None,
                asked: None,
                retry: None,
            }),
        }
    }

    pub(crate) fn slot(&self, partition: u16) -> Option<Arc<Slot<P>>> {
        self.slots().get(&partition).cloned()
    }

    pub(crate) fn drop_slot(&self, partition: u16) {
        if let Some(slot) = self.slots().remove(&partition) {
            slot.gone.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn stir(&self) {
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
        while !self.is_stopped()
            && let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            std::thread::sleep(left.min(STOP_LOOK));
        }
    }

    fn all(&self) -> Vec<Arc<Slot<P>>> {
        self.slots().values().cloned().collect()
    }

    /// The thread that applies.
    pub(crate) fn follow(&self) {
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
    pub(crate) fn apply_some(&self, slot: &Slot<P>) -> Result<Step, RestoreError> {
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
    pub(crate) fn snapshot(&self, slot: &Slot<P>, is_due: impl Fn(&Warm<P>) -> bool) {
        let Some(dir) = &self.snapshots else {
            return;
        };
        let builder = {
            let mut state = slot.lock();
            let Some(warm) = state.warm.as_mut().filter(|warm| is_due(warm)) else {
                return;
            };
            match warm.export(LogMark::of(self.log.as_ref())) {
                Ok(builder) => builder,
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
    pub(crate) fn restore(&self) {
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
    pub(crate) fn ask_ends(&self) {
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
