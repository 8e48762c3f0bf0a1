//! What is known of one partition without asking a broker: where it ends, and its newest records.
//!
//! ```text
//!  start                 first            upto      latest       end
//!    │   at the brokers    │  in memory, all  │  own, not  │ not  │
//!    │   (cold reads)      │  that is visible │  committed │ yet  │
//! ```
//!
//! `end` is an offset below which everything is settled. `first..upto` is a window in which every
//! visible record is held. What is known behind it waits until nothing is missing before it: the
//! follower, which reads the partition in order, says how far it has come (`passed`), so an offset
//! without a record below that is a mark that ended a transaction, or what was aborted. No other
//! conclusion is drawn from a missing offset: marks of this instance's transactions and what others
//! write come in any order, as the next transaction begins before the last one is marked.
//!
//! Own records of the open transaction are known with their delivery report. Those that follow the
//! window without a gap are what [`View::Latest`] shows beyond it: everything below them is decided.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use onhand_log::{Offset, RecordBatch, View};

use crate::runs;

/// Own records that wait for the follower to come so far, at most; above it the brokers are asked
/// anew where the partition ends.
const BEHIND_BYTES_MAX: usize = 64 << 20;
/// In place of what is known: nothing is, and the follower shall let go.
const BROKEN: Offset = Offset::MIN;

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
    /// The follower must let go before it is followed anew.
    broken: bool,
    /// The takeover of an owner's name up to which `end` is fresh enough.
    fresh: u64,
    start: Offset,
    end: Offset,
    first: Offset,
    upto: Offset,
    window: VecDeque<RecordBatch>,
    /// Known records at and above `upto`, by the offset of their first.
    behind: BTreeMap<Offset, Behind>,
    behind_bytes: usize,
    /// The follower has handed out everything visible below.
    passed: Offset,
    /// The highest end that the latest view ever showed.
    shown: Offset,
    /// The latest view showed something of the open transaction: at once, or when the follower had
    /// come so far.
    open_shown: bool,
    /// Bytes in `window` and `behind`.
    bytes: usize,
    /// After the newest own record known to be committed.
    own_end: Offset,
    /// An own transaction ended here and its mark was not accounted for yet.
    marked: bool,
}

#[derive(Debug)]
struct Behind {
    batch: RecordBatch,
    /// Of this instance's open transaction.
    open: bool,
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

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(crate) fn touch(&self, now_ms: u64) {
        self.read_at.store(now_ms, Ordering::Relaxed);
    }

    /// Everything below is known: the follower need not look at it.
    pub(crate) fn known(&self) -> Offset {
        self.known.load(Ordering::Acquire)
    }

    /// What is known beside that, as ranges: the follower need not look at it either.
    pub(crate) fn known_behind(&self) -> Vec<(Offset, Offset)> {
        let state = self.lock();
        let mut ranges: Vec<(Offset, Offset)> = Vec::new();
        for (base, entry) in &state.behind {
            let next = entry.batch.next_offset();
            match ranges.last_mut() {
                Some(last) if last.1 == *base => last.1 = next,
                _ => ranges.push((*base, next)),
            }
        }
        ranges
    }

    /// Bounds, when they can be said without asking: nothing own was committed since the brokers said
    /// where the partition ends, and the follower watches it.
    pub(crate) fn bounds(&self, fresh: u64, view: View) -> Option<(Offset, Offset)> {
        let state = self.lock();
        let sure = state.is_sure(fresh) && !state.marked;
        sure.then_some((state.start, state.end_of(view)))
    }

    /// Bounds as they were known last.
    pub(crate) fn held(&self, view: View) -> (Offset, Offset) {
        let state = self.lock();
        (state.start, state.end_of(view))
    }

    /// Whether this instance committed records that `end` does not cover yet.
    pub(crate) fn lacks_own(&self) -> bool {
        let state = self.lock();
        state.own_end > state.end
    }

    /// Whether the window ends right there: what comes next is the follower's to bring.
    pub(crate) fn is_tail(&self, from: Offset) -> bool {
        let state = self.lock();
        let last = state.window.back().map(RecordBatch::next_offset);
        state.followed && from >= last.unwrap_or(state.first)
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
            self.note_known(&state);
        }
        if stable < state.own_end && !late {
            return false;
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
            self.note_known(&state);
        }
        Some(state.upto)
    }

    /// The follower lets go: from here on the brokers are asked again.
    pub(crate) fn unfollow(&self) {
        let mut state = self.lock();
        (state.followed, state.broken) = (false, false);
        self.forget(&mut state);
        drop(state);
        self.grown.notify_all();
    }

    /// What is known may be wrong: nothing of it is shown any more, and the follower lets go.
    pub(crate) fn break_off(&self) {
        let mut state = self.lock();
        state.broken = state.followed;
        self.forget(&mut state);
        drop(state);
        self.grown.notify_all();
    }

    /// Whether the follower must let go.
    pub(crate) fn is_broken(&self) -> bool {
        self.known.load(Ordering::Acquire) == BROKEN
    }

    fn forget(&self, state: &mut State) {
        state.loaded = false;
        self.clear(state);
        (state.first, state.upto) = (0, 0);
        (state.end, state.passed) = (0, 0);
        self.note_known(state);
    }

    fn note_known(&self, state: &State) {
        let known = if state.broken { BROKEN } else { state.upto };
        self.known.store(known, Ordering::Release);
    }

    /// Whether somebody reads here, so that it is followed.
    pub(crate) fn is_watched(&self) -> bool {
        self.lock().is_watched()
    }

    /// Adds what this instance sent in its open transaction and the brokers hold, if the partition is
    /// followed: what nobody reads here is not kept. Whether the latest view shows more.
    pub(crate) fn sent(&self, batches: Vec<RecordBatch>) -> bool {
        let mut state = self.lock();
        if !state.is_watched() {
            return false;
        }
        let before = state.latest();
        for batch in batches {
            self.insert(&mut state, batch, true);
        }
        if state.behind_bytes > BEHIND_BYTES_MAX {
            drop(state);
            self.break_off();
            return false;
        }
        let grown = state.note_shown() > before;
        drop(state);
        self.grown.notify_all();
        grown
    }

    /// This instance's open transaction was committed; `end` is behind its last record here. Whether the
    /// latest view shows more by it.
    pub(crate) fn committed(&self, end: Offset) -> bool {
        let mut state = self.lock();
        let before = state.latest();
        for entry in state.behind.values_mut() {
            entry.open = false;
        }
        state.open_shown = false;
        state.own_end = state.own_end.max(end);
        state.marked = true;
        self.join(&mut state);
        let grown = state.latest() > before;
        drop(state);
        self.grown.notify_all();
        grown
    }

    /// This instance's open transaction came to nothing: its records are not there. Whether the latest
    /// view showed any of them.
    pub(crate) fn aborted(&self) -> bool {
        let mut state = self.lock();
        let gone = state.behind.extract_if(.., |_, entry| entry.open);
        let bytes: usize = gone.map(|(_, entry)| entry.batch.bytes().len()).sum();
        state.behind_bytes -= bytes;
        state.bytes -= bytes;
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        self.join(&mut state);
        std::mem::take(&mut state.open_shown)
    }

    /// Adds what the follower read; whether anything was new.
    pub(crate) fn followed(&self, batches: Vec<RecordBatch>) -> bool {
        let mut state = self.lock();
        if !state.is_watched() {
            return false;
        }
        let before = state.latest();
        for batch in batches {
            let (mut from, next) = (batch.base_offset().max(state.upto), batch.next_offset());
            while from < next {
                let at = state.behind.range(..=from).next_back();
                if let Some((_, entry)) = at
                    && entry.batch.next_offset() > from
                {
                    from = entry.batch.next_offset();
                    continue;
                }
                let to = state.behind.range(from..).next().map(|(base, _)| *base);
                let to = to.unwrap_or(next).min(next);
                if let Some(piece) = runs::cut(batch.clone(), from, to) {
                    self.insert(&mut state, piece, false);
                }
                from = to;
            }
            state.passed = state.passed.max(next);
        }
        self.join(&mut state);
        let grown = state.latest() > before;
        drop(state);
        self.grown.notify_all();
        grown
    }

    /// The follower has handed out everything visible below this offset; whether that shows more.
    pub(crate) fn passed(&self, upto: Offset) -> bool {
        let mut state = self.lock();
        if !state.is_watched() || upto <= state.passed {
            return false;
        }
        let before = state.latest();
        state.passed = upto;
        self.join(&mut state);
        if upto > state.own_end {
            state.marked = false;
        }
        let grown = state.latest() > before;
        drop(state);
        self.grown.notify_all();
        grown
    }

    fn insert(&self, state: &mut State, batch: RecordBatch, open: bool) {
        let base = batch.base_offset();
        if base < state.upto {
            return;
        }
        let bytes = batch.bytes().len();
        state.bytes += bytes;
        state.behind_bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
        state.behind.insert(base, Behind { batch, open });
    }

    /// Moves into the window what has nothing missing before it.
    fn join(&self, state: &mut State) {
        loop {
            let first = state.behind.first_entry();
            match first {
                Some(entry) if *entry.key() == state.upto => {
                    if entry.get().open {
                        break;
                    }
                    let batch = entry.remove().batch;
                    state.upto = batch.next_offset();
                    state.behind_bytes -= batch.bytes().len();
                    state.window.push_back(batch);
                }
                Some(entry) if state.passed > state.upto => {
                    state.upto = state.passed.min(*entry.key());
                }
                None if state.passed > state.upto => state.upto = state.passed,
                _ => break,
            }
        }
        state.end = state.end.max(state.upto);
        state.note_shown();
        self.note_known(state);
    }

    /// Drops the oldest batches until `bytes` are gone or only so many batches are left; says how many bytes
    /// went.
    pub(crate) fn shed(&self, bytes: usize, batches: usize) -> usize {
        let mut state = self.lock();
        let mut shed = 0;
        while shed < bytes
            && state.window.len() > batches
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
        state.behind.clear();
        state.behind_bytes = 0;
        self.total.fetch_sub(state.bytes, Ordering::Relaxed);
        state.bytes = 0;
        state.first = state.upto;
    }

    /// Reads from the window, and what the latest view shows behind it.
    pub(crate) fn look(&self, from: Offset, bytes_max: usize, fresh: u64, view: View) -> Look {
        let state = self.lock();
        if !state.is_sure(fresh) {
            return Look::Stale;
        }
        // What was shown and is not there any more is no error: it is as if it was not there yet.
        let end = state.end.max(state.latest());
        if from < state.start || from > end.max(state.shown) {
            return Look::Outside(state.start, end);
        }
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0, from);
        if from >= state.first {
            let at = state
                .window
                .partition_point(|batch| batch.next_offset() <= from);
            let window = state.window.iter().skip(at);
            let ahead = state.ahead().map(|entry| &entry.batch);
            let ahead = ahead.filter(|batch| view == View::Latest && batch.next_offset() > from);
            for batch in window.chain(ahead) {
                if bytes >= bytes_max && !batches.is_empty() {
                    break;
                }
                bytes += batch.bytes().len();
                next = batch.next_offset();
                batches.push(batch.clone());
            }
        }
        if !batches.is_empty() {
            return Look::Found(batches, next);
        }
        // Below `upto` nothing visible is left.
        if from >= state.first && state.end <= from.max(state.upto) {
            return Look::AtEnd;
        }
        Look::Cold(state.end)
    }

    /// Waits until more is known than that the window ends at `from`; whether it is.
    pub(crate) fn await_past(&self, from: Offset, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        let limit = from.max(state.upto);
        while state.followed && state.upto <= limit && state.upto < state.end {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return false;
            };
            let waited = self.grown.wait_timeout(state, left);
            (state, _) = waited.expect("no holder of a partition panics");
        }
        true
    }
}

impl State {
    fn is_sure(&self, fresh: u64) -> bool {
        self.is_watched() && self.fresh >= fresh
    }

    fn is_watched(&self) -> bool {
        self.loaded && self.followed && !self.broken
    }

    /// What follows the window without a gap.
    fn ahead(&self) -> impl Iterator<Item = &Behind> {
        let mut end = self.upto;
        self.behind.iter().map_while(move |(base, entry)| {
            let joins = *base == end;
            end = entry.batch.next_offset();
            joins.then_some(entry)
        })
    }

    /// Where the latest view ends.
    fn latest(&self) -> Offset {
        let last = self.ahead().last();
        last.map_or(self.upto, |entry| entry.batch.next_offset())
    }

    /// Where the latest view ends; remembers what it shows.
    fn note_shown(&mut self) -> Offset {
        let latest = self.latest();
        self.shown = self.shown.max(latest);
        let shows_open = self.ahead().any(|entry| entry.open);
        self.open_shown |= shows_open;
        latest
    }

    fn end_of(&self, view: View) -> Offset {
        match view {
            View::Durable => self.end,
            View::Latest => self.end.max(self.latest()),
        }
    }
}

#[cfg(test)]
mod tests;
