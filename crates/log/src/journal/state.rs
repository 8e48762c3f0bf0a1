//! What appenders, readers and the writer share, and the passage of a group through it.
//!
//! Lock order: the writer's lock, then the state's. The state's lock is held for moments only;
//! nothing is written, synced, checked or called back under it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::Instant;

use super::JournalConfig;
use super::frame::{Content, Place};
use super::image::Image;
use super::segment::FIRST_BLOCK;
use super::shelf::Shelf;
use super::spares::Spares;
use super::writer::Writer;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::{
    Append, AppendError, Ending, Listener, Offset, OnEnd, Progress, Purpose, RecordBatch,
    Timestamp, View,
};

/// What a batch in the tail costs beside its bytes: its two entries and the header of its buffer.
const TAIL_OVERHEAD: usize = 128;

/// One frame that waits for the writer.
pub(super) struct Queued {
    pub(super) content: Content,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) time: Timestamp,
    /// Slots of the batches, in their order.
    slots: Vec<usize>,
    on_end: Option<OnEnd>,
    is_append: bool,
    bytes: u64,
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued")
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl Queued {
    /// A frame of the journal's own.
    pub(super) fn own(content: Content, time: Timestamp) -> Self {
        let bytes = content.frame_bytes() as u64;
        let (batches, slots) = (Vec::new(), Vec::new());
        Self {
            content,
            batches,
            time,
            slots,
            on_end: None,
            is_append: false,
            bytes,
        }
    }
}

/// Everything that the threads of a journal share.
pub(super) struct Shared {
    pub(super) config: JournalConfig,
    pub(super) clock: Clock,
    /// How often the journal was opened for writing, this time included.
    sessions: u64,
    pub(super) spares: Spares,
    state: Mutex<State>,
    pub(super) writer: Mutex<Writer>,
    /// Something is to be written, or the journal halts.
    pub(super) work: Condvar,
    /// Something was written.
    room: Condvar,
    pub(super) listeners: RwLock<Vec<Listener>>,
    /// Something was written that is not synced: for the interval's sync.
    pub(super) unsynced: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) partitions: Vec<Partition>,
    pub(super) shelf: Shelf,
    pub(super) queue: Vec<Queued>,
    pub(super) queue_bytes: u64,
    writing_bytes: u64,
    /// When the oldest frame of the queue came.
    pub(super) queued_since: Option<Instant>,
    /// Somebody wants the queue written now.
    pub(super) kicked: bool,
    /// The writer's thread sleeps without a limit: who queues must wake it.
    pub(super) asleep: bool,
    /// How many appenders wait for room: without any, no system call tells nobody of it.
    wait_for_room: u32,
    pub(super) halted: bool,
    pub(super) closing: bool,
    stopped: Option<String>,
    /// Bytes of frames that the active segment and a fresh one still take.
    remaining: u64,
    capacity: u64,
    /// Batches in memory by age: slot and bytes, those not yet durable last.
    tail_order: VecDeque<(usize, usize)>,
    tail_bytes: usize,
    tail_unsettled: usize,
    pub(super) record_bytes: u64,
    pub(super) appends: u64,
    pub(super) syncs: u64,
    pub(super) pending: u64,
}

/// One partition as appenders and readers see it.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) durable: Offset,
    /// The newest batches, each with the offset after it.
    pub(super) tail: VecDeque<(Offset, RecordBatch)>,
}

impl Partition {
    pub(super) fn seen(&self, view: View) -> Offset {
        match view {
            View::Durable => self.durable,
            View::Latest => self.end,
        }
    }
}

enum Admission {
    Enter,
    Wait,
    NoSpace,
}

impl State {
    /// The state of a journal that was just opened.
    pub(super) fn new(image: &Image, shelf: Shelf) -> Self {
        let partitions = image.bounds.iter().map(|(start, end)| Partition {
            start: *start,
            end: *end,
            durable: *end,
            tail: VecDeque::new(),
        });
        Self {
            catalog: image.catalog.clone(),
            partitions: partitions.collect(),
            shelf,
            record_bytes: image.bytes,
            ..Self::default()
        }
    }

    pub(super) fn check_running(&self) -> Result<(), AppendError> {
        match &self.stopped {
            Some(why) => Err(AppendError::Stopped(why.clone())),
            None if self.closing => Err(AppendError::Stopped("it is being closed".into())),
            None => Ok(()),
        }
    }

    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.queue_bytes += queued.bytes;
        if queued.is_append {
            self.pending += 1;
        }
        self.queued_since.get_or_insert_with(Instant::now);
        self.queue.push(queued);
    }

    /// Enters an append that was admitted: offsets, tail, queue.
    fn enter(&mut self, token: &crate::Token, append: Append, bytes: u64, time: Timestamp) {
        self.catalog.consume(&token.owner, &append.consumed);
        let count = append.batches.len();
        let mut places = Vec::with_capacity(count);
        let mut batches = Vec::with_capacity(count);
        let mut slots = Vec::with_capacity(count);
        for (at, batch) in append.batches {
            let slot = self.catalog.slot(at).expect("admitted partitions exist");
            let partition = self
                .partitions
                .get_mut(slot)
                .expect("each slot has its partition");
            let batch = batch.rebase(partition.end);
            partition.end = batch.next_offset();
            partition.tail.push_back((partition.end, batch.clone()));
            let length = batch.bytes().len();
            let bytes = u32::try_from(length).expect("appends are bounded below 4 GiB");
            places.push(Place {
                at,
                base: batch.base_offset(),
                bytes,
                crc: batch.crc(),
            });
            self.tail_order.push_back((slot, length));
            self.tail_bytes += length + TAIL_OVERHEAD;
            self.record_bytes += length as u64;
            batches.push(batch);
            slots.push(slot);
        }
        self.tail_unsettled += count;
        self.appends += 1;
        let content = Content::Append {
            owner: Arc::clone(&token.owner),
            generation: token.generation,
            consumed: append.consumed,
            batches: places,
        };
        debug_assert_eq!(
            content.frame_bytes() as u64,
            bytes,
            "limits were checked for this size"
        );
        let on_end = append.on_end;
        self.push(Queued {
            content,
            batches,
            time,
            slots,
            on_end,
            is_append: true,
            bytes,
        });
    }

    /// Drops the oldest durable batches from memory while there are more bytes than wanted.
    fn evict(&mut self, tail_bytes_max: usize) {
        while self.tail_bytes > tail_bytes_max && self.tail_order.len() > self.tail_unsettled {
            let Some((slot, bytes)) = self.tail_order.pop_front() else {
                break;
            };
            let partition = self
                .partitions
                .get_mut(slot)
                .expect("each slot has its partition");
            partition.tail.pop_front();
            self.tail_bytes -= bytes + TAIL_OVERHEAD;
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        config: JournalConfig,
        spares: Spares,
        mut state: State,
        writer: Writer,
    ) -> Self {
        (state.remaining, state.capacity) = room_of(&writer);
        let not_before = match &config.opening {
            crate::Opening::Fill(fill) => fill.not_before.max(writer.image.time),
            _ => writer.image.time,
        };
        Self {
            clock: Clock::new(not_before),
            sessions: writer.image.sessions + 1,
            config,
            spares,
            state: Mutex::new(state),
            writer: Mutex::new(writer),
            work: Condvar::new(),
            room: Condvar::new(),
            listeners: RwLock::new(Vec::new()),
            unsynced: AtomicBool::new(false),
        }
    }

    /// Every token of this session has at least this generation, and none of an earlier session.
    pub(super) fn generation_floor(&self) -> u64 {
        self.sessions << 32
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the journal's state panics")
    }

    pub(super) fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer
            .lock()
            .expect("no callback panics while the journal writes")
    }

    pub(super) fn tell(&self, progress: Progress) {
        for listener in self
            .listeners
            .read()
            .expect("listeners do not panic")
            .iter()
        {
            listener(progress);
        }
    }

    /// Wakes the writer's thread if it may not wake by itself soon enough.
    pub(super) fn queued(&self, state: &mut State) {
        if std::mem::take(&mut state.asleep) {
            self.work.notify_one();
        }
    }

    pub(super) fn kick(&self, state: &mut State) {
        state.kicked = true;
        state.asleep = false;
        self.work.notify_one();
    }

    pub(super) fn append(
        &self,
        token: &crate::Token,
        append: Append,
        bytes: usize,
    ) -> Result<(), AppendError> {
        let bytes = bytes as u64;
        let mut state = self.lock();
        loop {
            state.check_running()?;
            state.catalog.admit(token, &append)?;
            match self.admission(&state, bytes, append.purpose) {
                Admission::Enter => break,
                Admission::NoSpace => return Err(AppendError::NoSpace),
                Admission::Wait => {
                    self.spares.hurry();
                    self.kick(&mut state);
                    // Spares become ready without this condition's notice.
                    state.wait_for_room += 1;
                    let waited = self.room.wait_timeout(state, TICK);
                    state = waited.expect("no holder of the journal's state panics").0;
                    state.wait_for_room -= 1;
                }
            }
        }
        // Under the lock, so that times rise with the order of the frames.
        let time = self.clock.now();
        state.enter(token, append, bytes, time);
        self.queued(&mut state);
        drop(state);
        self.tell(Progress::Appended);
        Ok(())
    }

    /// Queues a frame of the journal's own, which may use the reserve.
    pub(super) fn enter_own(&self, state: &mut State, content: Content) -> Result<(), AppendError> {
        let bytes = content.frame_bytes() as u64;
        let waiting = state.queue_bytes + state.writing_bytes;
        let fits = waiting + bytes <= state.remaining
            || self.spares.ready() >= 1 && waiting + bytes <= state.capacity;
        if self.spares.failed() && !fits {
            return Err(AppendError::NoSpace);
        }
        let time = self.clock.now();
        state.push(Queued::own(content, time));
        self.queued(state);
        Ok(())
    }

    /// Whether `bytes` more surely find room: in memory and on the disk.
    ///
    /// Only segments that are ready count. Decisions may count on the last one, new work only on
    /// those before it. All that waits, plus this, must fit into one segment, so that a frame that
    /// was let in is never turned away by the disk.
    fn admission(&self, state: &State, bytes: u64, purpose: Purpose) -> Admission {
        let waiting = state.queue_bytes + state.writing_bytes;
        if waiting > 0 && waiting + bytes > self.config.pending_bytes_max as u64 {
            return Admission::Wait;
        }
        let failed = self.spares.failed();
        let ready = self.spares.ready();
        let (here, next) = match purpose {
            Purpose::Intake | Purpose::View => (ready >= 1 || !failed, ready >= 2),
            Purpose::Decision => (true, ready >= 1),
        };
        let total = waiting + bytes;
        if here && total <= state.remaining || next && total <= state.capacity {
            Admission::Enter
        } else if waiting > 0 && next || !failed {
            Admission::Wait
        } else {
            Admission::NoSpace
        }
    }

    /// Whether new work is refused for want of space.
    pub(super) fn out_of_space(&self) -> bool {
        self.spares.failed() && self.spares.ready() < 2
    }

    /// Writes everything queued as one group, makes it durable, and ends its appends. The holder of
    /// the writer's lock alone does this, so endings come in the order of the appends.
    pub(super) fn commit(&self, writer: &mut Writer) {
        let group = {
            let mut state = self.lock();
            state.kicked = false;
            if state.stopped.is_some() || state.queue.is_empty() {
                return;
            }
            state.queued_since = None;
            state.writing_bytes = std::mem::take(&mut state.queue_bytes);
            std::mem::take(&mut state.queue)
        };
        if let Err(error) = writer.write(self, &group) {
            self.poison(group, &format!("writing or syncing failed: {error}"));
            return;
        }
        self.unsynced.store(!writer.is_synced(), Ordering::Release);
        let mut ends = Vec::with_capacity(group.len());
        {
            let mut state = self.lock();
            let state = &mut *state;
            for (slot, entry) in writer.entries.drain(..) {
                state.shelf.add(slot, entry);
            }
            for queued in group {
                for (slot, batch) in queued.slots.iter().zip(&queued.batches) {
                    let partition = state
                        .partitions
                        .get_mut(*slot)
                        .expect("each slot has its partition");
                    partition.durable = batch.next_offset();
                }
                state.tail_unsettled -= queued.batches.len();
                state.pending -= u64::from(queued.is_append);
                ends.extend(queued.on_end);
            }
            state.evict(self.config.tail_bytes);
            state.writing_bytes = 0;
            state.syncs += 1;
            (state.remaining, state.capacity) = room_of(writer);
            if state.wait_for_room > 0 {
                self.room.notify_all();
            }
        }
        for on_end in ends {
            on_end(Ending::Durable);
        }
        self.tell(Progress::Durable);
    }

    /// Stops for good after a failed write or sync. What the disk holds of `group` is not known, and
    /// asking again would not tell: the kernel may have marked the failed pages clean.
    pub(super) fn poison(&self, group: Vec<Queued>, why: &str) {
        let waiting = {
            let mut state = self.lock();
            state.stopped.get_or_insert_with(|| why.to_owned());
            state.pending = 0;
            state.queue_bytes = 0;
            state.writing_bytes = 0;
            std::mem::take(&mut state.queue)
        };
        self.spares.halt();
        self.work.notify_all();
        self.room.notify_all();
        for on_end in group
            .into_iter()
            .chain(waiting)
            .filter_map(|queued| queued.on_end)
        {
            on_end(Ending::Unknown);
        }
        self.tell(Progress::Stopped);
    }

    /// Marks the journal stopped after a clean end.
    pub(super) fn set_closed(&self) {
        self.lock().stopped = Some("it was closed".into());
        self.room.notify_all();
    }
}

/// How long an append waits before it looks again whether a segment became ready.
const TICK: std::time::Duration = std::time::Duration::from_millis(5);

/// Bytes of frames that fit behind the writer's position, and into a fresh segment.
fn room_of(writer: &Writer) -> (u64, u64) {
    let fresh = super::writer::limits(writer.segment_bytes).0;
    // An image grows by input positions between two reckonings: a sixteenth is room for that.
    let taken = FIRST_BLOCK as u64 + writer.image_bytes + fresh / 16;
    (
        writer.limit.saturating_sub(writer.at),
        fresh.saturating_sub(taken),
    )
}
