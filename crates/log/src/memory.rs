//! A log in memory, for tests: it can end every append in every way.
//!
//! Nothing becomes durable by itself: endings come with [`Log::flush`] or [`Log::close`], on the
//! thread that calls it, and not even then between [`MemoryLog::hold`] and
//! [`MemoryLog::release`]. So a test sees [`View::Latest`] run ahead of [`View::Durable`] for as
//! long as it likes.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::{
    Append, AppendError, Bounds, Consumed, Ending, Fetch, Listener, Log, Offset, OnEnd, Progress,
    ReadError, RecordBatch, Standing, Stats, Timestamp, Token, Topic, TopicError, TopicId,
    TopicPartition, TopicSpec, View,
};

/// Largest append, the default of the journal: what passes here passes there.
const APPEND_BYTES_MAX: usize = 16 << 20;

/// What shall become of an append instead of [`Ending::Durable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Ends [`Ending::Fenced`]: not written, and its token is worth nothing from now on.
    Fenced,
    /// Ends [`Ending::Aborted`]: not written.
    Aborted,
    /// Ends [`Ending::Unknown`], and was written.
    UnknownWritten,
    /// Ends [`Ending::Unknown`], and was not written.
    UnknownNotWritten,
}

/// A log in memory. See the module's text for when its appends end.
pub struct MemoryLog {
    id: u64,
    epoch: u64,
    clock: Clock,
    state: Mutex<State>,
    /// Held while endings are called, so that they are called in order.
    ending: Mutex<()>,
    listeners: RwLock<Vec<Listener>>,
}

#[derive(Default)]
struct State {
    catalog: Catalog,
    /// The catalog without what is pending.
    durable: Catalog,
    partitions: Vec<Partition>,
    pending: VecDeque<Pending>,
    faults: VecDeque<Option<Fault>>,
    /// Owners whose newest token had an append that did not end well.
    spoiled: BTreeSet<Arc<str>>,
    held: bool,
    out_of_space: bool,
    /// Nobody answers those who read.
    away: bool,
    /// What is told as the end lies so far above what is durable.
    told_ahead: Offset,
    stopped: bool,
    time: Option<Timestamp>,
    appends: u64,
    syncs: u64,
    standing: Standing,
}

#[derive(Clone, Default)]
struct Partition {
    batches: Vec<RecordBatch>,
    end: Offset,
    durable: Offset,
}

struct Pending {
    owner: Arc<str>,
    ends: Vec<(usize, Offset)>,
    consumed: Vec<Consumed>,
    ending: Ending,
    on_end: Option<OnEnd>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self::with_state(State::default(), 1, IDS.fetch_add(1, Ordering::Relaxed))
    }
}

impl MemoryLog {
    /// An empty log. Its epoch is 1.
    pub fn new() -> Self {
        Self::default()
    }

    fn with_state(state: State, epoch: u64, id: u64) -> Self {
        Self {
            id,
            epoch,
            clock: Clock::new(0),
            state: Mutex::new(state),
            ending: Mutex::new(()),
            listeners: RwLock::new(Vec::new()),
        }
    }

    /// An empty log that is an unfinished copy.
    pub fn filling(fill: crate::Fill) -> Self {
        let mut log = Self::new();
        log.epoch = fill.epoch;
        log.clock = Clock::new(fill.not_before);
        log.lock().standing = Standing::Filling(fill.source);
        log
    }

    /// The next append that has no fault yet gets this one.
    pub fn inject(&self, fault: Fault) {
        self.script([Some(fault)]);
    }

    /// Faults for the next appends in order; `None` lets one pass.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().faults.extend(faults);
    }

    /// Lets no append end until [`MemoryLog::release`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Lets appends end again and ends those that waited, flushed or not.
    pub fn release(&self) {
        self.lock().held = false;
        self.flush();
    }

    /// While set, only appends of [`Purpose::Decision`](crate::Purpose::Decision) are taken; others are refused
    /// with [`AppendError::NoSpace`].
    pub fn set_out_of_space(&self, out_of_space: bool) {
        self.lock().out_of_space = out_of_space;
    }

    /// While set, reading and asking for bounds fail as where no broker answers.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// From now on [`Log::told_end`] says so many offsets more than are durable, as while something
    /// undecided stands there.
    pub fn set_told_ahead(&self, offsets: Offset) {
        self.lock().told_ahead = offsets;
    }

    /// From now on the clock shows what it is told, and never goes back.
    pub fn set_time(&self, time: Timestamp) {
        let mut state = self.lock();
        state.time = Some(state.time.map_or(time, |before| before.max(time)));
    }

    /// Stops as a failed sync would: all that waits ends [`Ending::Unknown`].
    pub fn poison(&self) {
        let order = self.ending.lock().expect("endings do not panic");
        let waiting = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.pending)
        };
        for on_end in waiting.into_iter().filter_map(|pending| pending.on_end) {
            on_end(Ending::Unknown);
        }
        drop(order);
        self.tell(Progress::Stopped);
    }

    /// What another process would find after this one was killed: everything durable, nothing
    /// else, the same epoch.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let state = self.lock();
        let partitions = state.partitions.iter().map(|partition| Partition {
            batches: partition
                .batches
                .iter()
                .filter(|batch| batch.next_offset() <= partition.durable)
                .cloned()
                .collect(),
            end: partition.durable,
            durable: partition.durable,
        });
        let fresh = State {
            catalog: state.durable.clone(),
            durable: state.durable.clone(),
            partitions: partitions.collect(),
            time: state.time,
            standing: state.standing.clone(),
            ..State::default()
        };
        let mut log = Self::with_state(fresh, self.epoch, self.id);
        // As an engine that stores times does: what is shown may be a little ahead of the wall clock.
        log.clock = Clock::new(self.clock.now());
        log
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the log's lock panics")
    }

    fn tell(&self, progress: Progress) {
        for listener in self
            .listeners
            .read()
            .expect("listeners do not panic")
            .iter()
        {
            listener(progress);
        }
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }

    fn set_standing(&self, standing: &Standing) -> Result<(), AppendError> {
        let mut state = self.lock();
        state.check_running()?;
        state.standing = standing.clone();
        Ok(())
    }

    fn now(&self) -> Timestamp {
        let told = self.lock().time;
        told.unwrap_or_else(|| self.clock.now())
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        let mut state = self.lock();
        state.check_running()?;
        if let Some(id) = state.catalog.find(spec)? {
            return Ok(id);
        }
        let id = state.catalog.add(spec.clone());
        state.durable.add(spec.clone());
        let slots = state.catalog.slots().len();
        state.partitions.resize_with(slots, Partition::default);
        Ok(id)
    }

    fn topics(&self) -> Vec<Topic> {
        self.lock().catalog.topics().to_vec()
    }

    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        crate::check_owner(owner)?;
        let mut state = self.lock();
        state.check_running()?;
        let owner: Arc<str> = Arc::from(owner);
        let generation = state.catalog.next_generation(&owner);
        state.catalog.claim(&owner, generation);
        state.durable.claim(&owner, generation);
        state.spoiled.remove(&owner);
        Ok(Token { owner, generation })
    }

    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        let mut state = self.lock();
        state.check_running()?;
        state.catalog.give_up(token);
        state.durable.give_up(token);
        Ok(())
    }

    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        let mut state = self.lock();
        state.check_running()?;
        state.catalog.admit(token, &append)?;
        let bytes = append
            .batches
            .iter()
            .map(|(_, batch)| batch.bytes().len())
            .sum();
        if bytes > APPEND_BYTES_MAX {
            return Err(AppendError::TooLarge {
                bytes,
                limit: APPEND_BYTES_MAX,
            });
        }
        if state.out_of_space && append.purpose != crate::Purpose::Decision {
            return Err(AppendError::NoSpace);
        }
        state.appends += 1;
        let fault = if state.spoiled.contains(&token.owner) {
            Some(Fault::Aborted)
        } else {
            state.faults.pop_front().flatten()
        };
        if fault.is_some() {
            state.spoiled.insert(Arc::clone(&token.owner));
        }
        let ending = match fault {
            None => Ending::Durable,
            Some(Fault::Fenced) => Ending::Fenced,
            Some(Fault::Aborted) => Ending::Aborted,
            Some(Fault::UnknownWritten | Fault::UnknownNotWritten) => Ending::Unknown,
        };
        if fault == Some(Fault::Fenced) {
            // Somebody else claimed the name in that moment.
            let generation = state.catalog.next_generation(&token.owner);
            state.catalog.claim(&token.owner, generation);
            state.durable.claim(&token.owner, generation);
        }
        let written = matches!(fault, None | Some(Fault::UnknownWritten));
        let mut pending = Pending {
            owner: Arc::clone(&token.owner),
            ends: Vec::new(),
            consumed: Vec::new(),
            ending,
            on_end: append.on_end,
        };
        if written {
            state.catalog.consume(&token.owner, &append.consumed);
            pending.consumed = append.consumed;
            for (at, batch) in append.batches {
                let slot = state.catalog.slot(at).expect("admitted partitions exist");
                let partition = state.partitions.get_mut(slot).expect("each slot has one");
                let batch = batch.rebase(partition.end);
                partition.end = batch.next_offset();
                pending.ends.push((slot, partition.end));
                partition.batches.push(batch);
            }
        }
        state.pending.push_back(pending);
        drop(state);
        if written {
            self.tell(Progress::Appended);
        }
        Ok(())
    }

    fn flush(&self) {
        let order = self.ending.lock().expect("endings do not panic");
        let mut ends = Vec::new();
        {
            let mut state = self.lock();
            if state.held || state.pending.is_empty() {
                return;
            }
            state.syncs += 1;
            let state = &mut *state;
            for pending in state.pending.drain(..) {
                for (slot, end) in pending.ends {
                    state
                        .partitions
                        .get_mut(slot)
                        .expect("each slot has one")
                        .durable = end;
                }
                state.durable.consume(&pending.owner, &pending.consumed);
                ends.push((pending.on_end, pending.ending));
            }
        }
        for (on_end, ending) in ends {
            if let Some(on_end) = on_end {
                on_end(ending);
            }
        }
        drop(order);
        self.tell(Progress::Durable);
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        let state = self.lock();
        let partition = state.partition(at)?;
        if !(0..=partition.end).contains(&from) {
            return Err(ReadError::OutOfRange {
                asked: from,
                start: 0,
                end: partition.end,
            });
        }
        let limit = partition.seen(view);
        let first = partition
            .batches
            .partition_point(|batch| batch.next_offset() <= from);
        let mut fetch = Fetch {
            batches: Vec::new(),
            next: from,
        };
        let mut bytes = 0;
        for batch in partition.batches.iter().skip(first) {
            if batch.next_offset() > limit || bytes >= max_bytes && !fetch.batches.is_empty() {
                break;
            }
            bytes += batch.bytes().len();
            fetch.next = batch.next_offset();
            fetch.batches.push(batch.clone());
        }
        Ok(fetch)
    }

    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        let state = self.lock();
        let batches = state.partition(at)?.batches.iter();
        let batch = batches.filter(|batch| batch.max_timestamp() >= time);
        Ok(batch
            .flat_map(RecordBatch::records)
            .find(|r| r.timestamp >= time)
            .map(|r| r.offset))
    }

    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        Ok(Bounds {
            start: 0,
            end: self.lock().partition(at)?.seen(view),
        })
    }

    fn told_end(&self, at: TopicPartition) -> Result<Offset, ReadError> {
        let state = self.lock();
        Ok(state.partition(at)?.durable + state.told_ahead)
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        Ok(self.lock().catalog.consumed(owner, at))
    }

    fn listen(&self, listener: Listener) {
        self.listeners
            .write()
            .expect("listeners do not panic")
            .push(listener);
    }

    fn stats(&self) -> Stats {
        let state = self.lock();
        let batches = state
            .partitions
            .iter()
            .flat_map(|partition| &partition.batches);
        Stats {
            bytes: batches.map(|batch| batch.bytes().len() as u64).sum(),
            appends: state.appends,
            syncs: state.syncs,
            pending: state.pending.len() as u64,
            out_of_space: state.out_of_space,
            ..Stats::default()
        }
    }

    fn close(&self) -> Result<(), AppendError> {
        {
            let mut state = self.lock();
            state.check_running()?;
            state.stopped = true;
            state.held = false;
        }
        self.flush();
        self.tell(Progress::Stopped);
        Ok(())
    }
}

impl State {
    fn check_running(&self) -> Result<(), AppendError> {
        if self.stopped {
            return Err(AppendError::Stopped("it was closed".into()));
        }
        Ok(())
    }

    fn partition(&self, at: TopicPartition) -> Result<&Partition, ReadError> {
        if self.away {
            return Err(ReadError::Io("no broker answers".to_owned()));
        }
        let slot = self.catalog.slot(at).ok_or(ReadError::UnknownTopic(at))?;
        self.partitions.get(slot).ok_or(ReadError::UnknownTopic(at))
    }
}

impl Partition {
    fn seen(&self, view: View) -> Offset {
        match view {
            View::Durable => self.durable,
            View::Latest => self.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, batch_of, read_all, topic};

    fn log() -> (MemoryLog, TopicPartition, Token) {
        let log = MemoryLog::new();
        let at = TopicPartition {
            topic: topic(&log, "t", 1),
            partition: 0,
        };
        let token = log.claim("o").unwrap();
        (log, at, token)
    }

    #[test]
    fn each_fault_ends_as_it_says_and_writes_as_it_says() {
        for (fault, ending, written) in [
            (None, Ending::Durable, 1),
            (Some(Fault::Fenced), Ending::Fenced, 0),
            (Some(Fault::Aborted), Ending::Aborted, 0),
            (Some(Fault::UnknownWritten), Ending::Unknown, 1),
            (Some(Fault::UnknownNotWritten), Ending::Unknown, 0),
        ] {
            let (log, at, token) = log();
            log.script([fault]);
            let end = append(&log, &token, vec![(at, batch_of(0, b"v"))], vec![]).unwrap();
            assert!(end.try_recv().is_err(), "{fault:?}: ended before the flush");
            log.flush();
            assert_eq!(end.recv(), Ok(ending), "{fault:?}");
            assert_eq!(
                read_all(&log, at, View::Durable).len(),
                written,
                "{fault:?}"
            );
            let again = append(&log, &token, vec![(at, batch_of(0, b"v"))], vec![]);
            assert_eq!(again.is_err(), fault == Some(Fault::Fenced), "{fault:?}");
        }
    }

    #[test]
    fn nothing_is_written_behind_what_was_lost_until_the_next_claim() {
        let (log, at, token) = log();
        log.script([None, Some(Fault::UnknownNotWritten)]);
        let other = log.claim("other").unwrap();
        let append = |token: &Token, value: u8| {
            append(&log, token, vec![(at, batch_of(0, &[value]))], vec![]).unwrap()
        };
        let ends = [1, 2, 3].map(|value| append(&token, value));
        let beside = append(&other, 4);
        log.flush();
        let late = append(&token, 5);
        log.flush();
        let again = log.claim("o").unwrap();
        let after = append(&again, 6);
        log.flush();
        let ended = ends.map(|end| end.recv().unwrap());
        assert_eq!(ended, [Ending::Durable, Ending::Unknown, Ending::Aborted]);
        assert_eq!(late.recv(), Ok(Ending::Aborted));
        assert_eq!(beside.recv(), Ok(Ending::Durable), "another owner's");
        assert_eq!(after.recv(), Ok(Ending::Durable));
        let values = read_all(&log, at, View::Durable).into_iter();
        let values: Vec<_> = values.map(|(_, value)| value[0]).collect();
        assert_eq!(values, [1, 4, 6]);
    }

    #[test]
    fn held_appends_are_seen_but_not_durable() {
        let (log, at, token) = log();
        log.hold();
        let consumed = vec![Consumed { at, next: 7 }];
        let end = append(&log, &token, vec![(at, batch_of(0, b"v"))], consumed).unwrap();
        log.flush();
        assert!(end.try_recv().is_err());
        assert_eq!(read_all(&log, at, View::Latest).len(), 1);
        assert_eq!(read_all(&log, at, View::Durable).len(), 0);
        let other = log.reopened();
        assert_eq!(other.bounds(at, View::Latest).unwrap().end, 0);
        assert_eq!(
            (log.consumed("o", at), other.consumed("o", at)),
            (Ok(Some(7)), Ok(None))
        );
        log.release();
        assert_eq!(end.recv(), Ok(Ending::Durable));
        assert_eq!(read_all(&log.reopened(), at, View::Durable).len(), 1);
    }

    #[test]
    fn a_poisoned_log_ends_everything_unknown() {
        let (log, at, token) = log();
        let end = append(&log, &token, vec![(at, batch_of(0, b"v"))], vec![]).unwrap();
        log.poison();
        assert_eq!(end.recv(), Ok(Ending::Unknown));
        assert!(matches!(log.claim("o"), Err(AppendError::Stopped(_))));
    }

    #[test]
    fn space_and_time_are_as_told() {
        let (log, at, token) = log();
        log.set_out_of_space(true);
        let refused = append(&log, &token, vec![(at, batch_of(0, b"v"))], vec![]);
        assert!(matches!(refused, Err(AppendError::NoSpace)));
        log.set_time(500);
        log.set_time(400);
        assert_eq!(log.now(), 500);
    }
}
