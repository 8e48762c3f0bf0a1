//! What is known of one partition without asking a broker: where it ends, and its newest records.
//!
//! ```text
//!  start                 first            upto     end
//!    │   at the brokers    │  in memory, all  │ not  │
//!    │   (cold reads)      │  that is visible │ yet  │
//! ```
//!
//! `end` is an offset below which everything is settled. `first..upto` is a window in which every
//! visible record is held. It grows in two ways. What this instance committed itself is added when it
//! lies directly behind the window, or one offset further after an own transaction: that offset is the
//! mark that ended it, which Kafka writes before it lets the next one begin. If it lies further away,
//! somebody else wrote in between, and the follower, which reads the partition in order, brings all of
//! it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use onhand_log::{Offset, RecordBatch};

use crate::runs;

/// One partition, shared by readers, the writer and the follower.
#[derive(Debug)]
pub(crate) struct Partition {
    /// The cluster's name of the topic.
    pub(crate) topic: Arc<str>,
    pub(crate) number: u16,
    state: Mutex<State>,
    grown: Condvar,
    /// A copy of `upto`, so that the follower skips what is known without the lock.
    known: AtomicI64,
    /// Milliseconds of the log's life at the last read.
    read_at: AtomicU64,
    /// Bytes in the windows of all partitions.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    loaded: bool,
    followed: bool,
    /// The takeover of an owner's name up to which `end` is fresh enough.
    fresh: u64,
    start: Offset,
    end: Offset,
    first: Offset,
    upto: Offset,
    window: VecDeque<RecordBatch>,
    bytes: usize,
    /// After the newest own record known to be committed.
    own_end: Offset,
    /// An own transaction ended here and its mark was not accounted for yet.
    marked: bool,
}

/// What a look at the window gave.
pub(crate) enum Look {
    /// Served: batches, and where to read on.
    Found(Vec<RecordBatch>, Offset),
    /// Nothing is there yet.
    AtEnd,
    /// There is more than the window holds: ask a broker, up to this offset.
    Cold(Offset),
    /// Outside of what is held: start and end.
    Outside(Offset, Offset),
    /// The brokers must be asked first where the partition ends.
    Stale,
}

impl Partition {
    pub(crate) fn new(topic: Arc<str>, number: u16, total: Arc<AtomicUsize>) -> Self {
        Self {
            topic,
            number,
            state: Mutex::default(),
            grown: Condvar::new(),
            known: AtomicI64::new(0),
            read_at: AtomicU64::new(0),
            total,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of a partition panics")
    }

    pub(crate) fn read_at(&self) -> u64 {
        self.read_at.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self, now_ms: u64) {
        self.read_at.store(now_ms, Ordering::Relaxed);
    }

    /// Everything below is known: the follower need not look at it.
    pub(crate) fn known(&self) -> Offset {
        self.known.load(Ordering::Acquire)
    }

    /// Bounds, when they can be said without asking: nothing own was committed since the brokers said
    /// where the partition ends, and the follower watches it.
    pub(crate) fn bounds(&self, fresh: u64) -> Option<(Offset, Offset)> {
        let state = self.lock();
        let sure = state.is_sure(fresh) && !state.marked;
        sure.then_some((state.start, state.end))
    }

    /// Bounds as they were known last.
    pub(crate) fn held(&self) -> (Offset, Offset) {
        let state = self.lock();
        (state.start, state.end)
    }

    /// Whether this instance committed records that `end` does not cover yet.
    pub(crate) fn lacks_own(&self) -> bool {
        let state = self.lock();
        state.own_end > state.end
    }

    /// Whether the window ends right there: what comes next is the follower's to bring.
    pub(crate) fn is_tail(&self, from: Offset) -> bool {
        let state = self.lock();
        state.followed && from >= state.upto
    }

    /// What the brokers said: `low` and the last stable offset. Returns false while that lies below
    /// what this instance knows to be committed: its mark is still on the way.
    /// `late`: it is taken as it is all the same, because somebody else's open transaction hides it.
    pub(crate) fn settle(&self, low: Offset, stable: Offset, fresh: u64, late: bool) -> bool {
        let mut state = self.lock();
        state.start = low;
        if !state.loaded {
            state.loaded = true;
            (state.first, state.upto) = (stable, stable);
            self.known.store(stable, Ordering::Release);
        }
        if stable < state.own_end && !late {
            return false;
        }
        if state.marked && state.upto == state.own_end && stable == state.upto + 1 {
            // Nothing but the mark of the own transaction lies in between.
            state.upto = stable;
            self.known.store(stable, Ordering::Release);
        }
        state.marked = false;
        state.end = state.end.max(stable);
        state.fresh = state.fresh.max(fresh);
        true
    }

    /// Where the follower shall begin; `None` when it follows already. What the window holds is kept
    /// only where the follower joins it.
    pub(crate) fn follow(&self) -> Option<Offset> {
        let mut state = self.lock();
        if state.followed || !state.loaded {
            return None;
        }
        state.followed = true;
        if state.upto < state.end {
            self.clear(&mut state);
            (state.first, state.upto) = (state.end, state.end);
            self.known.store(state.end, Ordering::Release);
        }
        Some(state.upto)
    }

    /// The follower lets go: from here on the brokers are asked again.
    pub(crate) fn unfollow(&self) {
        let mut state = self.lock();
        state.followed = false;
        state.loaded = false;
        self.clear(&mut state);
        (state.first, state.upto) = (0, 0);
        state.end = 0;
        self.known.store(0, Ordering::Release);
        drop(state);
        self.grown.notify_all();
    }

    /// Adds what this instance committed, if the partition is followed: what nobody reads here is not
    /// kept.
    pub(crate) fn committed(&self, batches: Vec<RecordBatch>, end: Offset) {
        let mut state = self.lock();
        // Only directly behind an own record is one missing offset certainly the own mark.
        let mut mark = state.marked && state.upto == state.own_end;
        for batch in batches {
            let base = batch.base_offset();
            if state.followed && (base == state.upto || mark && base == state.upto + 1) {
                self.push(&mut state, batch);
            }
            // A second batch of the same transaction has no mark before it.
            mark = false;
        }
        state.own_end = state.own_end.max(end);
        state.marked = true;
        drop(state);
        self.grown.notify_all();
    }

    /// Adds what the follower read; whether anything was new.
    pub(crate) fn followed(&self, batches: Vec<RecordBatch>) -> bool {
        let mut state = self.lock();
        if !state.followed {
            return false;
        }
        let before = state.upto;
        for batch in batches {
            let upto = state.upto;
            if let Some(batch) = runs::cut(batch, upto) {
                self.push(&mut state, batch);
            }
        }
        let grown = state.upto > before;
        drop(state);
        self.grown.notify_all();
        grown
    }

    fn push(&self, state: &mut State, batch: RecordBatch) {
        state.upto = batch.next_offset();
        state.end = state.end.max(state.upto);
        self.known.store(state.upto, Ordering::Release);
        let bytes = batch.bytes().len();
        state.bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
        state.window.push_back(batch);
    }

    /// Drops the oldest records until `bytes` are gone or none are left; says how many went.
    pub(crate) fn shed(&self, bytes: usize) -> usize {
        let mut state = self.lock();
        let mut shed = 0;
        while shed < bytes
            && let Some(batch) = state.window.pop_front()
        {
            shed += batch.bytes().len();
            state.first = batch.next_offset();
        }
        state.bytes -= shed;
        self.total.fetch_sub(shed, Ordering::Relaxed);
        shed
    }

    fn clear(&self, state: &mut State) {
        state.window.clear();
        self.total.fetch_sub(state.bytes, Ordering::Relaxed);
        state.bytes = 0;
        state.first = state.upto;
    }

    /// Reads from the window.
    pub(crate) fn look(&self, from: Offset, bytes_max: usize, fresh: u64) -> Look {
        let state = self.lock();
        if !state.is_sure(fresh) {
            return Look::Stale;
        }
        if from < state.start || from > state.end {
            return Look::Outside(state.start, state.end);
        }
        if from == state.end {
            return Look::AtEnd;
        }
        if from < state.first || from >= state.upto {
            return Look::Cold(state.end);
        }
        let at = state
            .window
            .partition_point(|batch| batch.next_offset() <= from);
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0, state.upto);
        for batch in state.window.iter().skip(at) {
            if bytes >= bytes_max && !batches.is_empty() {
                break;
            }
            bytes += batch.bytes().len();
            next = batch.next_offset();
            batches.push(batch.clone());
        }
        Look::Found(batches, next)
    }

    /// Waits until the window reaches past `from`; whether it does.
    pub(crate) fn await_past(&self, from: Offset, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while state.followed && state.upto <= from {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.grown.wait_timeout(state, left);
            (state, _) = waited.expect("no holder of a partition panics");
        }
        state.upto > from
    }
}

impl State {
    fn is_sure(&self, fresh: u64) -> bool {
        self.loaded && self.followed && self.fresh >= fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onhand_log::testing::batch_of;

    fn partition() -> Partition {
        let partition = Partition::new("t".into(), 0, Arc::default());
        assert!(partition.settle(0, 0, 1, false));
        assert_eq!(partition.follow(), Some(0));
        partition
    }

    fn record(offset: Offset) -> RecordBatch {
        batch_of(1, b"v").rebase(offset)
    }

    fn found(partition: &Partition, from: Offset) -> Vec<Offset> {
        match partition.look(from, usize::MAX, 1) {
            Look::Found(batches, _) => batches.iter().map(RecordBatch::base_offset).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn own_records_join_over_the_own_mark_only() {
        let partition = partition();
        partition.committed(vec![record(0)], 1);
        partition.committed(vec![record(2), record(3)], 4);
        assert_eq!(found(&partition, 0), [0, 2, 3]);
        // Two offsets further: somebody else wrote at 5 or 6.
        partition.committed(vec![record(7)], 8);
        assert_eq!(found(&partition, 0), [0, 2, 3]);
        // The follower brings all of it in order, what is known already included.
        assert!(partition.followed(vec![record(3), record(6), record(7)]));
        assert_eq!(found(&partition, 0), [0, 2, 3, 6, 7]);
    }

    #[test]
    fn a_second_batch_of_one_transaction_has_no_mark_before_it() {
        let partition = partition();
        partition.committed(vec![record(0)], 1);
        // The record at 3 is somebody else's: between batches of one transaction is no mark.
        partition.committed(vec![record(2), record(4)], 5);
        assert_eq!(found(&partition, 0), [0, 2]);
    }

    #[test]
    fn bounds_are_asked_for_after_an_own_commit() {
        let partition = partition();
        assert_eq!(partition.bounds(1), Some((0, 0)));
        partition.committed(vec![record(0)], 1);
        assert_eq!(partition.bounds(1), None);
        assert!(!partition.settle(0, 0, 1, false), "the mark is on the way");
        assert!(partition.settle(0, 2, 1, false));
        assert_eq!(partition.bounds(1), Some((0, 2)));
        assert_eq!(partition.bounds(2), None, "somebody's name was taken since");
        assert!(matches!(partition.look(2, 1, 1), Look::AtEnd));
        assert!(matches!(partition.look(3, 1, 1), Look::Outside(0, 2)));
    }

    #[test]
    fn what_is_shed_is_read_from_the_brokers() {
        let partition = partition();
        partition.committed(vec![record(0)], 1);
        partition.committed(vec![record(2)], 3);
        assert!(partition.shed(1) > 0);
        assert!(matches!(partition.look(0, 1, 1), Look::Cold(3)));
        assert_eq!(found(&partition, 1), [2]);
    }
}
