//! The way in: what callers submit and ask waits here for the worker of its partition, and so do
//! partitions that are opened and closed.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::opener::{Arriving, Closing};
use crate::processor::{Processor, Ticket};
use crate::round::{Round, drive_here};

/// Why something was not taken. Nothing of it is in the log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SubmitError {
    /// More would wait in the inbox than
    /// [`WorkerConfig::inbox_bytes`](crate::WorkerConfig::inbox_bytes).
    #[error("the node is busy: its inbox is full; try again shortly")]
    Busy,
    /// The log refuses new work for want of space; what was taken in is still decided.
    #[error("the node has no space left for new work; free disk space and try again")]
    NoSpace,
    /// The workers or this partition's task have stopped, or are stopping; says why.
    #[error("the node does not take work: {0}")]
    Stopped(String),
    /// The partition is not open here: another instance owns it, or nobody does at this moment.
    #[error("partition {0} is not owned by this instance; send it to the one that owns it")]
    Moved(u16),
    /// Its ticket said so before it was taken in: see [`Ticket::is_wanted`].
    #[error(
        "what was sent before it failed, so it was not taken; send all again with the same ids"
    )]
    Unwanted,
    /// The partition asked for is not below the number of partitions.
    #[error("partition {0} is not one of this node's; check the partition count")]
    UnknownPartition(u16),
    /// Above the inbox's bound; or what one round took in, this among it, is above what the log takes
    /// in one append.
    #[error("one submission of {bytes} B is above the limit of {limit} B; split it")]
    TooLarge {
        /// The size that is too large.
        bytes: usize,
        /// The bound that it is above.
        limit: usize,
    },
}

/// Figures of the workers, for metrics.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WorkerStats {
    /// Bytes submitted that no thread has taken up yet.
    pub inbox_bytes: u64,
    /// Rounds since the start: each takes in, steps its tasks and flushes once.
    pub rounds: u64,
    /// Submitted records whose outcome is not known yet, as of each thread's last round.
    pub open_tickets: u64,
    /// Panics in processing since the start, all of them caught.
    pub panics: u64,
    /// Tasks that stopped for trouble and need somebody to look.
    pub stopped_tasks: u64,
}

/// What a query counts for in an inbox, so that their number is bounded too.
const QUERY_BYTES: usize = 1 << 10;

/// The largest submission to one worker. A round appends what it takes in at once, so this and
/// `ROUND_BYTES` together must fit an append of the log (16 MiB on the journal).
const SUBMISSION_BYTES_MAX: usize = 8 << 20;

pub(crate) type Query<P> = Box<dyn FnOnce(&mut P) -> Reply + Send>;
pub(crate) type Reply = Box<dyn FnOnce(Result<(), SubmitError>) + Send>;

pub(crate) enum Message<P> {
    Submit {
        packs: Vec<(u16, Vec<u8>)>,
        ticket: Arc<dyn Ticket>,
        bytes: usize,
    },
    Query {
        partition: u16,
        query: Query<P>,
        on_stop: Reply,
    },
    /// A restored task comes to its thread.
    Open(Arriving<P>),
    /// A task shall leave it. What was submitted to it before stands before this.
    Close(Closing<P>),
}

impl<P> Message<P> {
    fn bytes(&self) -> usize {
        match self {
            Self::Submit { bytes, .. } => *bytes,
            Self::Query { .. } => QUERY_BYTES,
            // One of each partition at most.
            Self::Open(_) | Self::Close(_) => 0,
        }
    }
}

pub(crate) struct Inbox<P> {
    pub(crate) messages: VecDeque<Message<P>>,
    pub(crate) bytes: usize,
    pub(crate) stop: bool,
    pub(crate) closed: Option<String>,
    /// Until when, in log time, the worker's thread sleeps for a tick; the beginning of time: it is
    /// awake.
    pub(crate) sleeps_until: i64,
}

impl<P> Inbox<P> {
    /// Why nothing is taken any more.
    pub(crate) fn refuses(&self) -> Option<String> {
        let stopping = self.stop.then(|| "it is shutting down".to_owned());
        self.closed.clone().or(stopping)
    }
}

pub(crate) struct Shared<P: Processor> {
    pub(crate) inbox: Mutex<Inbox<P>>,
    pub(crate) arrived: Condvar,
    /// Whoever holds it does the rounds. `None` before the start and after the end.
    pub(crate) round: Mutex<Option<Round<P>>>,
    /// When the next tick is wanted, log time; the end of time: never.
    pub(crate) due: AtomicI64,
    /// Set by the log's listener when somebody else appended.
    pub(crate) stirred: AtomicBool,
    pub(crate) sleeping: AtomicBool,
    pub(crate) inbox_bytes: AtomicU64,
    pub(crate) rounds: AtomicU64,
    pub(crate) tickets: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) stopped_tasks: AtomicU64,
}

impl<P: Processor> Shared<P> {
    pub(crate) fn new() -> Self {
        Self {
            round: Mutex::new(None),
            due: AtomicI64::new(i64::MAX),
            inbox: Mutex::new(Inbox {
                messages: VecDeque::new(),
                bytes: 0,
                stop: false,
                closed: None,
                sleeps_until: i64::MIN,
            }),
            arrived: Condvar::new(),
            stirred: AtomicBool::new(true),
            sleeping: AtomicBool::new(false),
            inbox_bytes: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            stopped_tasks: AtomicU64::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inbox<P>> {
        // Nothing under this lock can leave it half done.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody appended. What a round of this worker appends, it looks after itself.
    pub(crate) fn stir(&self) {
        if !Driving::is_at(self) {
            self.rouse();
        }
    }

    /// The worker's thread does a round soon, and looks at every partition in it.
    pub(crate) fn rouse(&self) {
        self.stirred.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes the worker's thread if it sleeps, after something was put into the inbox: it looks there
    /// under the inbox's lock before it sleeps.
    fn wake_quickly(&self) {
        if self.sleeping.load(Ordering::SeqCst) {
            self.arrived.notify_one();
        }
    }

    /// Wakes the worker's thread if it sleeps, after something that it sees without a lock.
    pub(crate) fn wake(&self) {
        if self.sleeping.load(Ordering::SeqCst) {
            let _held = self.lock();
            self.arrived.notify_one();
        }
    }

    /// After a round on a caller's thread: wakes the worker for what it must do, and where the next
    /// tick is wanted before it would wake by itself.
    pub(crate) fn wake_for(&self, trouble: bool) {
        let due = self.due.load(Ordering::SeqCst);
        let waits = |inbox: &Inbox<P>| !inbox.messages.is_empty() || inbox.sleeps_until > due;
        if trouble {
            self.stirred.store(true, Ordering::SeqCst);
        }
        let inbox = self.lock();
        if trouble || waits(&inbox) {
            self.arrived.notify_one();
        }
    }

    /// Sleeps until something was submitted, somebody else appended, a tick is due, or the stop.
    pub(crate) fn wait(&self, sleep_until: impl Fn(i64) -> Duration) {
        let mut inbox = self.lock();
        self.sleeping.store(true, Ordering::SeqCst);
        if inbox.messages.is_empty() && !inbox.stop && !self.stirred.load(Ordering::SeqCst) {
            let due = self.due.load(Ordering::SeqCst);
            inbox.sleeps_until = due;
            let waited = self.arrived.wait_timeout(inbox, sleep_until(due));
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.sleeps_until = i64::MIN;
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// What waits, up to about that many bytes, and whether the worker is to stop after it.
    pub(crate) fn take(&self, bytes_max: usize) -> (Vec<Message<P>>, bool) {
        let mut inbox = self.lock();
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(message) = inbox.messages.pop_front() else {
                break;
            };
            bytes += message.bytes();
            messages.push(message);
        }
        inbox.bytes -= bytes;
        self.inbox_bytes
            .store(inbox.bytes as u64, Ordering::Relaxed);
        (messages, inbox.stop && inbox.messages.is_empty())
    }

    /// Puts a partition's coming or going behind what was submitted.
    ///
    /// # Errors
    /// What was not taken, and why.
    pub(crate) fn order(&self, message: Message<P>) -> Result<(), (Message<P>, String)> {
        let mut inbox = self.lock();
        if let Some(why) = inbox.refuses() {
            return Err((message, why));
        }
        inbox.messages.push_back(message);
        drop(inbox);
        self.wake_quickly();
        Ok(())
    }

    /// Takes nothing more and refuses what waits.
    pub(crate) fn close(&self, why: &str) {
        let left = {
            let mut inbox = self.lock();
            inbox.closed = Some(why.to_owned());
            inbox.stop = true;
            std::mem::take(&mut inbox.messages)
        };
        let stopped = SubmitError::Stopped(why.to_owned());
        for message in left {
            match message {
                Message::Submit { ticket, .. } => ticket.refused(&stopped),
                Message::Query { on_stop, .. } => on_stop(Err(stopped.clone())),
                Message::Open(arriving) => arriving.send_back(),
                // Whoever closes it hears that by the end of the channel.
                Message::Close(_) => {}
            }
        }
    }
}

thread_local! {
    /// The worker whose round this thread is at, by the address of what it shares; 0: none.
    static DRIVING: Cell<usize> = const { Cell::new(0) };
}

/// This thread does a round, until it is dropped.
pub(crate) struct Driving;

impl Driving {
    pub(crate) fn begin<P: Processor>(of: &Shared<P>) -> Self {
        DRIVING.set(std::ptr::from_ref(of).addr());
        Self
    }

    fn is_at<P: Processor>(shared: &Shared<P>) -> bool {
        DRIVING.get() == std::ptr::from_ref(shared).addr()
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        DRIVING.set(0);
    }
}

/// The way in. Clones share the workers.
pub struct WorkerHandle<P: Processor> {
    pub(crate) shared: Arc<Vec<Arc<Shared<P>>>>,
    /// By partition, whether its task is with its thread.
    pub(crate) open: Arc<[AtomicBool]>,
    pub(crate) inbox_bytes_max: usize,
}

impl<P: Processor> Clone for WorkerHandle<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            open: Arc::clone(&self.open),
            inbox_bytes_max: self.inbox_bytes_max,
        }
    }
}

impl<P: Processor> fmt::Debug for WorkerHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("open", &self.open_partitions())
            .finish()
    }
}

impl<P: Processor> WorkerHandle<P> {
    /// The thread of an open partition.
    fn of(&self, partition: u16) -> Result<&Arc<Shared<P>>, SubmitError> {
        let unknown = SubmitError::UnknownPartition(partition);
        let Some(open) = self.open.get(usize::from(partition)) else {
            return Err(unknown);
        };
        // Who is late here is refused by the round: see `Round::take_in`.
        if !open.load(Ordering::Acquire) {
            return Err(SubmitError::Moved(partition));
        }
        self.thread_of(partition).ok_or(unknown)
    }

    pub(crate) fn thread_of(&self, partition: u16) -> Option<&Arc<Shared<P>>> {
        self.shared.get(usize::from(partition) % self.shared.len())
    }

    /// Whether this worker has the partition's task, be it stopped. False from the beginning of its
    /// closing on, and until it is restored.
    pub fn is_open(&self, partition: u16) -> bool {
        let open = self.open.get(usize::from(partition));
        open.is_some_and(|open| open.load(Ordering::Acquire))
    }

    /// Those of which [`WorkerHandle::is_open`] is true, in order.
    pub fn open_partitions(&self) -> Vec<u16> {
        let open = (0..).zip(self.open.iter());
        let open = open.filter(|(_, open)| open.load(Ordering::Acquire));
        open.map(|(partition, _)| partition).collect()
    }

    /// Hands records to the owners of their partitions. They enter the log in this order and are
    /// processed once; the ticket hears of each.
    ///
    /// When one of the partitions is not open nothing is taken, of none of them: the caller splits by
    /// owner. One that closes in this moment is told to the ticket instead, once for all of them, by
    /// [`Ticket::refused`] with [`SubmitError::Moved`].
    ///
    /// # Errors
    /// [`SubmitError`]: nothing was taken and the ticket hears nothing. With more than one thread,
    /// what belongs to the same thread is taken whole or not at all, and the ticket hears
    /// [`Ticket::failed`] or [`Ticket::refused`] for the rest.
    pub fn submit(
        &self,
        packs: Vec<(u16, Vec<u8>)>,
        ticket: &Arc<dyn Ticket>,
    ) -> Result<(), SubmitError> {
        self.enter(packs, ticket, Shared::wake_quickly)
    }

    /// As [`WorkerHandle::submit`], for a caller who waits for the outcome and is alone: where no round
    /// is under way, this thread does one, its sync included, and the ticket has mostly heard when it
    /// returns. It blocks as long as a sync takes. Where many submit at once, each would sync for
    /// itself what the worker's thread syncs together: then [`WorkerHandle::submit`] is faster.
    ///
    /// # Errors
    /// As [`WorkerHandle::submit`].
    pub fn submit_here(
        &self,
        packs: Vec<(u16, Vec<u8>)>,
        ticket: &Arc<dyn Ticket>,
    ) -> Result<(), SubmitError> {
        self.enter(packs, ticket, drive_here)
    }

    /// Puts a submission into the inboxes of its workers, and calls `then` for each.
    fn enter(
        &self,
        packs: Vec<(u16, Vec<u8>)>,
        ticket: &Arc<dyn Ticket>,
        then: fn(&Shared<P>),
    ) -> Result<(), SubmitError> {
        let mut shares: Vec<(Vec<(u16, Vec<u8>)>, usize)> = Vec::new();
        shares.resize_with(self.shared.len(), Default::default);
        for (partition, pack) in packs {
            self.of(partition)?;
            if let Some((share, bytes)) = shares.get_mut(usize::from(partition) % self.shared.len())
            {
                *bytes += pack.len();
                share.push((partition, pack));
            }
        }
        let mut taken = false;
        for (shared, (packs, bytes)) in self.shared.iter().zip(shares) {
            if packs.is_empty() {
                continue;
            }
            let message = Message::Submit {
                packs,
                ticket: Arc::clone(ticket),
                bytes,
            };
            if let Err(error) = self.put(shared, message) {
                if !taken {
                    return Err(error);
                }
                ticket.failed(
                    "a part of it was taken and a part was not; send it again with the same ids",
                );
                return Ok(());
            }
            taken = true;
            then(shared);
        }
        Ok(())
    }

    /// Runs `query` on the owner of the partition, between two batches; `reply` hears its result once
    /// everything that it could see is durable. It must be short: the owner waits for it.
    ///
    /// # Errors
    /// As [`WorkerHandle::submit`]. Once taken, `reply` is called exactly once.
    pub fn query<R: Send + 'static>(
        &self,
        partition: u16,
        query: impl FnOnce(&mut P) -> R + Send + 'static,
        reply: impl FnOnce(Result<R, SubmitError>) + Send + 'static,
    ) -> Result<(), SubmitError> {
        let shared = self.of(partition)?;
        let reply = Arc::new(Mutex::new(Some(reply)));
        let take =
            |reply: &Mutex<Option<_>>| reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let for_stop = Arc::clone(&reply);
        let on_stop: Reply = Box::new(move |result| {
            if let (Some(reply), Err(error)) = (take(&for_stop), result) {
                reply(Err(error));
            }
        });
        let query: Query<P> = Box::new(move |processor| {
            let found = query(processor);
            Box::new(move |result| {
                if let Some(reply) = take(&reply) {
                    reply(result.map(|()| found));
                }
            })
        });
        let message = Message::Query {
            partition,
            query,
            on_stop,
        };
        self.put(shared, message)?;
        shared.wake_quickly();
        Ok(())
    }

    fn put(&self, shared: &Shared<P>, message: Message<P>) -> Result<(), SubmitError> {
        let bytes = message.bytes();
        let mut inbox = shared.lock();
        if let Some(why) = inbox.refuses() {
            return Err(SubmitError::Stopped(why));
        }
        let limit = self.inbox_bytes_max.min(SUBMISSION_BYTES_MAX);
        if bytes > limit {
            return Err(SubmitError::TooLarge { bytes, limit });
        }
        if inbox.bytes + bytes > self.inbox_bytes_max {
            return Err(SubmitError::Busy);
        }
        inbox.bytes += bytes;
        shared
            .inbox_bytes
            .store(inbox.bytes as u64, Ordering::Relaxed);
        inbox.messages.push_back(message);
        Ok(())
    }

    /// Why a worker takes nothing more, if one of them stopped by itself: a node is of no use then.
    pub fn stopped(&self) -> Option<String> {
        let mut shared = self.shared.iter();
        shared.find_map(|shared| shared.lock().closed.clone())
    }

    /// Sums over all threads, as each stated them last.
    pub fn stats(&self) -> WorkerStats {
        let mut stats = WorkerStats::default();
        for shared in self.shared.iter() {
            stats.inbox_bytes += shared.inbox_bytes.load(Ordering::Relaxed);
            stats.rounds += shared.rounds.load(Ordering::Relaxed);
            stats.open_tickets += shared.tickets.load(Ordering::Relaxed);
            stats.panics += shared.panics.load(Ordering::Relaxed);
            stats.stopped_tasks += shared.stopped_tasks.load(Ordering::Relaxed);
        }
        stats
    }
}
