//! Partitions come and go while the worker runs: the caller's side, which does what takes long, and
//! the round's side, which only takes a task or hands it out.
//!
//! ```text
//!  open:  claim, restore (caller) ──► [inbox] ──► the round has the task ──► submissions are taken
//!  close: submissions are refused ──► [inbox] ──► the round finishes what it took, hands the task out
//!         ──► appends in flight end ──► give the name up, snapshot (caller)
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use onhand_log::{AppendError, Log, Token, View};

use crate::claim;
use crate::inbox::{Message, Shared, SubmitError, WorkerHandle};
use crate::processor::{Processor, Ticket};
use crate::publish::Publish;
use crate::restore::{Reading, RestoreError, Restored, apply_redo};
use crate::round::Round;
use crate::snapshot::{LogMark, SnapshotBuilder, SnapshotDir};
use crate::standby::Standbys;
use crate::task::{Task, TaskSpec, Topics, guarded};
use crate::tickets::FAILED;

/// How long a task that closes may go on for those who wait for an outcome: on a log that shows
/// committed records only, the answers of other owners take a commit each.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);

/// A task on its way to its thread.
pub(crate) struct Arriving<P> {
    task: Box<Task<P>>,
    reply: SyncSender<Option<Box<Task<P>>>>,
}

impl<P> Arriving<P> {
    /// The worker takes nothing more.
    pub(crate) fn send_back(self) {
        // The opener waits for it, unless it panicked.
        let _ = self.reply.send(Some(self.task));
    }
}

/// A task that shall leave its thread.
pub(crate) struct Closing<P> {
    partition: u16,
    /// From then on it is handed out though somebody waits for an outcome.
    deadline: Instant,
    hand_out: Sender<HandedOut<P>>,
}

/// What the round hands out once everything appended before has ended.
struct HandedOut<P> {
    task: Task<P>,
    /// Those whose outcome did not come.
    waiting: Vec<Arc<dyn Ticket>>,
    /// Whether all that is in the state is durable.
    is_whole: bool,
}

/// Opens and closes partitions of a worker, from any thread, several at once. Clones share the worker.
pub struct Opener<P: Processor>(pub(crate) Arc<Inner<P>>);

pub(crate) struct Inner<P: Processor> {
    pub(crate) handle: WorkerHandle<P>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) name: Arc<str>,
    pub(crate) topics: Topics,
    pub(crate) make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    pub(crate) snapshots: Option<SnapshotDir>,
    pub(crate) publish: Option<Arc<dyn Publish>>,
    pub(crate) snapshot_redo_bytes: usize,
    pub(crate) standbys: Standbys<P>,
    pub(crate) restored: Box<dyn Fn(u16, Restored) + Send + Sync>,
    /// By partition: held while it is being opened or closed.
    pub(crate) gates: Box<[Mutex<()>]>,
    /// By partition: offsets that its opening has still to read.
    pub(crate) left: Box<[AtomicU64]>,
}

impl<P: Processor> Clone for Opener<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Processor> fmt::Debug for Opener<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opener").field(&self.0.handle).finish()
    }
}

impl<P: Processor> Opener<P> {
    /// Claims the partition, restores its task on this thread, and hands it to the worker's. It takes
    /// as long as restoring does; where it was followed ([`Standbys`]), only as long as reading what the
    /// standby had not read yet. Opening what is open changes nothing and reports an empty
    /// [`Restored`].
    ///
    /// # Errors
    /// Where [`RestoreError::may_pass`], nothing is claimed or open: try again. After what will not
    /// pass, a state that does not fit or a panic in restoring it, the partition stays claimed and
    /// counts as open, its task stopped: what is submitted to it hears why, and
    /// [`WorkerStats::stopped_tasks`](crate::WorkerStats::stopped_tasks) counts it, until it is closed.
    pub fn open(&self, partition: u16) -> Result<Restored, RestoreError> {
        let inner = &*self.0;
        let unknown = RestoreError::UnknownPartition(partition);
        let (Some(gate), Some(shared)) = (
            inner.gates.get(usize::from(partition)),
            inner.handle.thread_of(partition),
        ) else {
            return Err(unknown);
        };
        // Nothing under it is left half done by a panic that another call would meet.
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = shared.lock().refuses() {
            return Err(RestoreError::Stopped(why));
        }
        if inner.handle.is_open(partition) {
            return Ok(Restored::default());
        }
        let began = Instant::now();
        let spec = TaskSpec {
            name: Arc::clone(&inner.name),
            topics: inner.topics,
            partition,
        };
        let token = claim::claim(inner.log.as_ref(), &spec)?;
        let make = || (inner.make)(partition);
        let snapshots = inner.snapshots.as_ref();
        let Some(left) = inner.left.get(usize::from(partition)) else {
            return Err(unknown);
        };
        let opened = match self.take_over(&token, &spec, left) {
            Ok(None) => Task::open(
                &inner.log,
                token.clone(),
                spec.clone(),
                &make,
                snapshots,
                left,
            ),
            Ok(Some(taken)) => Ok(taken),
            Err(error) => Err(error),
        };
        let opened = opened.and_then(|(mut task, restored)| {
            task.begin_publishing(inner.log.as_ref(), inner.publish.as_ref())?;
            Ok((task, restored))
        });
        left.store(0, Ordering::Relaxed);
        let (task, restored) = match opened {
            Ok((task, restored)) => (task, Ok(restored)),
            Err(error) if error.may_pass() => {
                claim::give_up(inner.log.as_ref(), &token);
                return Err(error);
            }
            Err(error) => {
                let task = Task::stopped_before_start(spec, token, make(), error.to_string());
                (task, Err(error))
            }
        };
        self.hand_in(task, shared)?;
        if let Some(open) = inner.handle.open.get(usize::from(partition)) {
            open.store(true, Ordering::SeqCst);
        }
        match &restored {
            Ok(report) => {
                let took = began.elapsed();
                tracing::debug!(partition, ?took, ?report, "partition opened");
                if report.from_standby {
                    let records = report.redo_records;
                    tracing::info!(
                        partition,
                        records,
                        ?took,
                        "a standby took the partition over"
                    );
                }
                (inner.restored)(partition, *report);
            }
            Err(error) => tracing::error!(partition, %error, "the task stopped"),
        }
        restored
    }

    /// What follows partitions that others own. See [`Worker::standbys`](crate::Worker::standbys).
    pub fn standbys(&self) -> Standbys<P> {
        self.0.standbys.clone()
    }

    /// Offsets that an opening under way has still to read, as far as that is known; 0 where none is.
    pub fn left(&self, partition: u16) -> u64 {
        let left = self.0.left.get(usize::from(partition));
        left.map_or(0, |left| left.load(Ordering::Relaxed))
    }

    /// The task of a partition that was claimed, with the state of its standby here and all redo records
    /// behind that. `None` where there is no standby that fits.
    fn take_over(
        &self,
        token: &Token,
        spec: &TaskSpec,
        left: &AtomicU64,
    ) -> Result<Option<(Task<P>, Restored)>, RestoreError> {
        let inner = &*self.0;
        let Some((slot, caught_up)) = inner.standbys.catch_up(spec.partition)? else {
            return Ok(None);
        };
        let Some(mut warm) = inner.standbys.take(&slot) else {
            return Ok(None);
        };
        let reading = Reading {
            log: inner.log.as_ref(),
            spec,
            view: View::Latest,
            left,
            cancelled: None,
        };
        let finished = guarded(spec, || {
            let from = warm.next();
            let mut report = Restored {
                from_standby: true,
                ..Restored::default()
            };
            let mut last = warm.last;
            let processor = &mut warm.processor;
            apply_redo(reading, processor, from, from, &mut report, &mut last)?;
            let unfit = |what| spec.unfit(what);
            let (processor, redo_bytes, unsnapped_bytes) = warm.finish().map_err(unfit)?;
            Ok((processor, redo_bytes, unsnapped_bytes, last, report))
        });
        let (processor, redo_bytes, unsnapped_bytes, last, mut report) = match finished {
            Ok(finished) => finished,
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                let partition = spec.partition;
                tracing::error!(partition, %error, "a standby does not fit the log, restoring");
                return Ok(None);
            }
        };
        let task = Task::of_state(
            &inner.log,
            token.clone(),
            spec.clone(),
            processor,
            redo_bytes + report.redo_bytes,
            unsnapped_bytes + report.redo_bytes,
            last,
        )?;
        report.redo_records += caught_up;
        Ok(Some((task, report)))
    }

    fn hand_in(&self, task: Task<P>, shared: &Shared<P>) -> Result<(), RestoreError> {
        let (reply, heard) = sync_channel(1);
        let task = Box::new(task);
        let (back, why) = match shared.order(Message::Open(Arriving { task, reply })) {
            Ok(()) => match heard.recv() {
                Ok(None) => return Ok(()),
                Ok(Some(task)) => (Some(task), self.why_stopped()),
                // It went down with its round.
                Err(_) => (None, self.why_stopped()),
            },
            Err((Message::Open(arriving), why)) => (Some(arriving.task), why),
            Err((_, why)) => (None, why),
        };
        if let Some(task) = back {
            claim::give_up(self.0.log.as_ref(), task.token());
        }
        Err(RestoreError::Stopped(why))
    }

    /// Closes the partition here and gives its name up, so that another instance can open it without
    /// fencing this one.
    ///
    /// From its beginning what is submitted to the partition is refused with [`SubmitError::Moved`].
    /// What was taken before is finished: it is decided and answered, or, where an outcome does not
    /// come soon, left in the log for the next owner, and its ticket hears [`Ticket::failed`]. It
    /// returns when all appends in flight have ended, which takes as long as the log needs. Closing
    /// what is not open changes nothing.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`] when the worker has stopped, or the log cannot hear that the name is
    /// given up: the partition is closed here nevertheless, and whoever claims it fences this worker.
    pub fn close(&self, partition: u16) -> Result<(), SubmitError> {
        let inner = &*self.0;
        let unknown = SubmitError::UnknownPartition(partition);
        let (Some(gate), Some(open), Some(shared)) = (
            inner.gates.get(usize::from(partition)),
            inner.handle.open.get(usize::from(partition)),
            inner.handle.thread_of(partition),
        ) else {
            return Err(unknown);
        };
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let began = Instant::now();
        let (hand_out, handed_out) = channel();
        let closing = Closing {
            partition,
            deadline: began + CLOSE_PATIENCE,
            hand_out,
        };
        if let Err((_, why)) = shared.order(Message::Close(closing)) {
            return Err(SubmitError::Stopped(why));
        }
        let heard = handed_out.recv_timeout(CLOSE_PATIENCE);
        let out = match heard {
            Ok(out) => Some(out),
            Err(RecvTimeoutError::Timeout) => {
                // The thread may sleep: nothing else tells it that the time is over.
                shared.rouse();
                handed_out.recv().ok()
            }
            Err(RecvTimeoutError::Disconnected) => None,
        };
        let Some(out) = out else {
            return Err(SubmitError::Stopped(self.why_stopped()));
        };
        let left = out.waiting.len();
        for ticket in out.waiting {
            ticket.failed(FAILED);
        }
        let (log, snapshots) = (inner.log.as_ref(), inner.snapshots.as_ref());
        let retired = retire(
            log,
            out.task,
            out.is_whole,
            snapshots,
            inner.snapshot_redo_bytes,
        );
        tracing::debug!(partition, took = ?began.elapsed(), left, "partition closed");
        retired.map_err(|error| SubmitError::Stopped(error.to_string()))
    }

    fn why_stopped(&self) -> String {
        let stopped = self.0.handle.stopped();
        stopped.unwrap_or_else(|| "it is shutting down".to_owned())
    }
}

/// Gives the task's name up when everything appended under it has ended, and writes a snapshot where
/// that is worth it: `cheap` says how large it may be in any case.
pub(crate) fn retire<P: Processor>(
    log: &dyn Log,
    mut task: Task<P>,
    is_whole: bool,
    snapshots: Option<&SnapshotDir>,
    cheap: usize,
) -> Result<(), AppendError> {
    let redo = task.spec().at(task.spec().topics.redo);
    // Asked for while nobody else can append there.
    let bounds = log.bounds(redo, View::Latest);
    let given_up = log.give_up(task.token());
    let is_worth_it = is_whole && task.stopped().is_none() && task.is_snapshot_worth_it(cheap);
    if let (Some(dir), true, Ok(bounds)) = (snapshots, is_worth_it, bounds) {
        let builder = take_snapshot(&mut task, LogMark::of(log), bounds.end);
        store_snapshot(dir, &task.spec().owner(), builder);
    }
    given_up
}

/// The task's state as it is now, which the redo records below `redo_next` led to.
pub(crate) fn take_snapshot<P: Processor>(
    task: &mut Task<P>,
    mark: LogMark,
    redo_next: onhand_log::Offset,
) -> SnapshotBuilder {
    let mut builder = SnapshotBuilder::new(mark, redo_next, task.redo_bytes() as u64);
    task.processor
        .export(&mut |key, value| builder.put(key, value));
    task.snapshot_begun(builder.len());
    builder
}

pub(crate) fn store_snapshot(dir: &SnapshotDir, owner: &str, builder: SnapshotBuilder) {
    if let Err(error) = dir.store(owner, builder) {
        tracing::warn!(%error, "snapshot not written, restarts take longer");
    }
}

impl<P: Processor> Round<P> {
    /// Takes a restored task. Returns its partition, in which there may be something to read.
    pub(crate) fn admit(&mut self, arriving: Arriving<P>) -> Option<u16> {
        let Arriving { task, reply } = arriving;
        let partition = task.spec().partition;
        let place = self.place(partition);
        let slot = self.tasks.get_mut(place).filter(|slot| slot.is_none());
        let Some(slot) = slot else {
            // Its gate lets nobody open what is open.
            let _ = reply.send(Some(task));
            return None;
        };
        *slot = Some(*task);
        self.note(partition);
        // Whoever opened it may have gone: it is with its thread all the same.
        let _ = reply.send(None);
        Some(partition)
    }

    /// Hands out the tasks that close and for whose outcomes nobody waits any more, or not longer.
    pub(crate) fn hand_out_where_quiet(&mut self) {
        if self.closing.is_empty() {
            return;
        }
        let tickets = &self.tickets;
        let is_ready = |closing: &mut Closing<P>| {
            !tickets.waits_for(closing.partition) || Instant::now() >= closing.deadline
        };
        let ready: Vec<Closing<P>> = self.closing.extract_if(.., is_ready).collect();
        for closing in ready {
            self.hand_out(closing, true);
        }
    }

    /// Hands out all tasks that close, as they are.
    pub(crate) fn hand_out_all(&mut self, is_whole: bool) {
        for closing in std::mem::take(&mut self.closing) {
            self.hand_out(closing, is_whole);
        }
    }

    /// Nothing is appended for the task any more. Whoever closes it gets it once what was appended
    /// before has ended.
    fn hand_out(&mut self, closing: Closing<P>, is_whole: bool) {
        let place = self.place(closing.partition);
        let Some(task) = self.tasks.get_mut(place).and_then(Option::take) else {
            return;
        };
        self.note(closing.partition);
        let waiting = self.tickets.take_partition(closing.partition);
        let hand_out = closing.hand_out;
        self.in_flight.after(Box::new(move |good| {
            let out = HandedOut {
                task,
                waiting,
                is_whole: is_whole && good,
            };
            // Its closer waits for it, unless it panicked.
            let _ = hand_out.send(out);
        }));
    }
}
