//! Workers: threads that take in what callers submit and drive the tasks of their partitions.
//!
//! One round of a worker: append what was submitted, step every task that has something to read until
//! none has, run the queries, flush. So a command, the decisions that follow from it in any number of
//! partitions of this worker, and the answer share one sync.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use onhand_log::{
    Append, AppendError, BatchBuilder, Ending, Log, Progress, Purpose, Token, TopicPartition, View,
};
use thiserror::Error;

use crate::inflight::InFlight;
use crate::processor::{Processor, Ticket};
use crate::restore::{RestoreError, Restored};
use crate::snapshot::{SnapshotBuilder, SnapshotDir};
use crate::task::{FAILED, Stepped, Surroundings, Task, TaskSpec, Tickets, Topics, ticket_key};

/// A round takes in at most this much, so that its decisions come out soon.
const ROUND_BYTES: usize = 2 << 20;

/// A worker never sleeps longer, so that it notices what nothing announces (wall time for ticks).
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// The longest wait for appends in flight before tasks are reopened.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How the tasks of a node are run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Threads; partition p is driven by thread p modulo this. 1 fits two cores: parsing and rendering
    /// outside cost more than deciding.
    pub threads: u16,
    /// What may wait in a thread's inbox; above it [`SubmitError::Busy`]. Bounds memory.
    pub inbox_bytes: usize,
    /// Where snapshot files go; `None`: none are written or read.
    pub snapshot_dir: Option<PathBuf>,
    /// A snapshot of a task is written after this many of its redo records, and when it closes.
    pub snapshot_every: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            inbox_bytes: 64 << 20,
            snapshot_dir: None,
            snapshot_every: 20_000,
        }
    }
}

/// Why something was not taken. Nothing of it is in the log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SubmitError {
    #[error("the node is busy: its inbox is full; try again shortly")]
    Busy,
    #[error("the node has no space left for new work; free disk space and try again")]
    NoSpace,
    #[error("the node does not take work: {0}")]
    Stopped(String),
    #[error("partition {0} is not one of this node's; check the partition count")]
    UnknownPartition(u16),
    #[error("one submission of {bytes} B is above the limit of {limit} B; split it")]
    TooLarge { bytes: usize, limit: usize },
}

/// Figures of the workers, for metrics.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WorkerStats {
    pub inbox_bytes: u64,
    pub rounds: u64,
    pub open_tickets: u64,
    pub panics: u64,
    /// Tasks that stopped for trouble and need somebody to look.
    pub stopped_tasks: u64,
}

type Query<P> = Box<dyn FnOnce(&mut P) -> Reply + Send>;
type Reply = Box<dyn FnOnce(Result<(), SubmitError>) + Send>;

enum Message<P> {
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
}

struct Inbox<P> {
    messages: VecDeque<Message<P>>,
    bytes: usize,
    stop: bool,
    closed: Option<String>,
}

struct Shared<P> {
    inbox: Mutex<Inbox<P>>,
    arrived: Condvar,
    /// Set by the log's listener when somebody else appended.
    stirred: AtomicBool,
    sleeping: AtomicBool,
    inbox_bytes: AtomicU64,
    rounds: AtomicU64,
    tickets: AtomicU64,
    panics: AtomicU64,
    stopped_tasks: AtomicU64,
}

impl<P> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, Inbox<P>> {
        // Nothing under this lock can leave it half done.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stir(&self) {
        self.stirred.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            let _held = self.lock();
            self.arrived.notify_one();
        }
    }
}

/// The running workers of a node. Dropping it stops them; [`Worker::stop`] also says how it went.
pub struct Worker<P: Processor> {
    handle: WorkerHandle<P>,
    threads: Vec<JoinHandle<()>>,
}

impl<P: Processor> fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("threads", &self.threads.len())
            .finish()
    }
}

/// The way in. Clones share the workers.
pub struct WorkerHandle<P> {
    shared: Arc<Vec<Arc<Shared<P>>>>,
    partitions: u16,
    inbox_bytes_max: usize,
}

impl<P> Clone for WorkerHandle<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            partitions: self.partitions,
            inbox_bytes_max: self.inbox_bytes_max,
        }
    }
}

impl<P> fmt::Debug for WorkerHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("partitions", &self.partitions)
            .finish()
    }
}

impl<P: Processor> WorkerHandle<P> {
    fn of(&self, partition: u16) -> Result<&Arc<Shared<P>>, SubmitError> {
        if partition >= self.partitions {
            return Err(SubmitError::UnknownPartition(partition));
        }
        let thread = usize::from(partition) % self.shared.len();
        self.shared
            .get(thread)
            .ok_or(SubmitError::UnknownPartition(partition))
    }

    /// Hands records to the owners of their partitions. They enter the log in this order and are
    /// processed once; the ticket hears of each.
    ///
    /// # Errors
    /// [`SubmitError`]: nothing was taken and the ticket hears nothing. With more than one thread,
    /// what belongs to the same thread is taken whole or not at all, and the ticket hears
    /// [`Ticket::failed`] for the rest.
    pub fn submit(
        &self,
        packs: Vec<(u16, Vec<u8>)>,
        ticket: &Arc<dyn Ticket>,
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
            if let Err(error) = self.put(shared, message, bytes) {
                if !taken {
                    return Err(error);
                }
                ticket.failed(
                    "a part of it was taken and a part was not; send it again with the same ids",
                );
                return Ok(());
            }
            taken = true;
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
        self.put(
            shared,
            Message::Query {
                partition,
                query,
                on_stop,
            },
            0,
        )
    }

    fn put(
        &self,
        shared: &Shared<P>,
        message: Message<P>,
        bytes: usize,
    ) -> Result<(), SubmitError> {
        let mut inbox = shared.lock();
        if let Some(why) = &inbox.closed {
            return Err(SubmitError::Stopped(why.clone()));
        }
        if inbox.stop {
            return Err(SubmitError::Stopped("it is shutting down".to_owned()));
        }
        if bytes > self.inbox_bytes_max {
            return Err(SubmitError::TooLarge {
                bytes,
                limit: self.inbox_bytes_max,
            });
        }
        if inbox.bytes + bytes > self.inbox_bytes_max {
            return Err(SubmitError::Busy);
        }
        inbox.bytes += bytes;
        shared
            .inbox_bytes
            .store(inbox.bytes as u64, Ordering::Relaxed);
        inbox.messages.push_back(message);
        drop(inbox);
        if shared.sleeping.load(Ordering::SeqCst) {
            shared.arrived.notify_one();
        }
        Ok(())
    }

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

impl<P: Processor> Worker<P> {
    /// Takes all partitions of the input topic, restores their tasks, several at a time, and starts
    /// the threads. `restored` is told of each partition as it is ready.
    ///
    /// # Errors
    /// [`RestoreError`] of the first partition that cannot be restored.
    pub fn start(
        log: &Arc<dyn Log>,
        name: &str,
        topics: Topics,
        partitions: u16,
        make: impl Fn(u16) -> P + Send + Sync + 'static,
        config: &WorkerConfig,
        restored: &(dyn Fn(u16, Restored) + Sync),
    ) -> Result<Self, RestoreError> {
        let name: Arc<str> = name.into();
        let make: Arc<dyn Fn(u16) -> P + Send + Sync> = Arc::new(make);
        let snapshots = config
            .snapshot_dir
            .as_deref()
            .map(SnapshotDir::new)
            .transpose()
            .map_err(RestoreError::Thread)?;
        let tasks = restore_all(
            log,
            &name,
            topics,
            partitions,
            &make,
            snapshots.as_ref(),
            restored,
        )?;

        let thread_count = config.threads.clamp(1, partitions.max(1));
        let instance = instance_mark();
        let shared: Vec<_> = (0..thread_count).map(|_| Arc::new(new_shared())).collect();
        for one in &shared {
            let one = Arc::clone(one);
            log.listen(Box::new(move |progress| {
                if progress != Progress::Durable {
                    one.stir();
                }
            }));
        }
        let mut per_thread: Vec<Vec<Task<P>>> = (0..thread_count).map(|_| Vec::new()).collect();
        for (partition, task) in tasks.into_iter().enumerate() {
            if let Some(share) = per_thread.get_mut(partition % usize::from(thread_count)) {
                share.push(task);
            }
        }
        let mut threads = Vec::new();
        for (number, (shared, tasks)) in shared.iter().zip(per_thread).enumerate() {
            let token = log.claim(&format!("{name}-intake/{number}"))?;
            let round = Round {
                log: Arc::clone(log),
                shared: Arc::clone(shared),
                token,
                topics,
                tasks,
                thread_count,
                make: Arc::clone(&make),
                in_flight: InFlight::default(),
                tickets: Tickets::default(),
                instance,
                next_ticket: (number as u64) << 48,
                snapshots: snapshots.clone(),
                snapshot_every: config.snapshot_every,
                ticked: BTreeMap::new(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || round.run())?;
            threads.push(thread);
        }
        let handle = WorkerHandle {
            shared: Arc::new(shared),
            partitions,
            inbox_bytes_max: config.inbox_bytes,
        };
        Ok(Self { handle, threads })
    }

    pub fn handle(&self) -> WorkerHandle<P> {
        self.handle.clone()
    }

    /// Takes nothing more, finishes what was taken, makes it durable, writes snapshots, and ends the
    /// threads.
    ///
    /// # Errors
    /// What a thread stopped for, if one had stopped before.
    pub fn stop(mut self) -> Result<(), SubmitError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SubmitError> {
        for shared in self.handle.shared.iter() {
            shared.lock().stop = true;
            shared.arrived.notify_one();
        }
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                result = Err(SubmitError::Stopped("a worker thread panicked".to_owned()));
            }
        }
        for shared in self.handle.shared.iter() {
            if let Some(why) = &shared.lock().closed {
                result = Err(SubmitError::Stopped(why.clone()));
            }
        }
        result
    }
}

impl<P: Processor> Drop for Worker<P> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "worker ended in trouble");
        }
    }
}

fn new_shared<P>() -> Shared<P> {
    Shared {
        inbox: Mutex::new(Inbox {
            messages: VecDeque::new(),
            bytes: 0,
            stop: false,
            closed: None,
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

/// A mark that no earlier process of this log used, as far as 32 bits can tell: a restarted node must
/// not take an old record's key for one of its own tickets. Old records are not read again unless
/// their decision was lost, and a false match then only answers a ticket number that is not open.
fn instance_mark() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mixed = RandomState::new().build_hasher().finish();
    u32::try_from(mixed >> 32).expect("32 bits are left")
}

fn restore_all<P: Processor>(
    log: &Arc<dyn Log>,
    name: &Arc<str>,
    topics: Topics,
    partitions: u16,
    make: &Arc<dyn Fn(u16) -> P + Send + Sync>,
    snapshots: Option<&SnapshotDir>,
    restored: &(dyn Fn(u16, Restored) + Sync),
) -> Result<Vec<Task<P>>, RestoreError> {
    let next = AtomicU64::new(0);
    let done = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(usize::from(partitions)) {
            scope.spawn(|| {
                while let Ok(partition) = u16::try_from(next.fetch_add(1, Ordering::SeqCst)) {
                    if partition >= partitions {
                        return;
                    }
                    let spec = TaskSpec {
                        name: Arc::clone(name),
                        topics,
                        partition,
                    };
                    let opened = Task::open(log, spec, make(partition), snapshots);
                    if let Ok((_, report)) = &opened {
                        restored(partition, *report);
                    }
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((partition, opened.map(|(task, _)| task)));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(partition, _)| *partition);
    done.into_iter().map(|(_, task)| task).collect()
}

/// Everything that one worker thread has.
struct Round<P: Processor> {
    log: Arc<dyn Log>,
    shared: Arc<Shared<P>>,
    token: Token,
    topics: Topics,
    /// The task of partition p stands at p / thread_count.
    tasks: Vec<Task<P>>,
    thread_count: u16,
    make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    in_flight: InFlight,
    tickets: Tickets,
    instance: u32,
    next_ticket: u64,
    snapshots: Option<SnapshotDir>,
    snapshot_every: u64,
    /// Per partition the due time for which a tick was last written: it is written once for each.
    ticked: BTreeMap<u16, i64>,
}

impl<P: Processor> Round<P> {
    fn run(mut self) {
        let mut stirred: BTreeSet<u16> = self.partitions();
        loop {
            let (messages, stop) = self.wait(&stirred);
            if self.shared.stirred.swap(false, Ordering::SeqCst) {
                stirred = self.partitions();
            }
            let mut queries = Vec::new();
            if let Err(error) = self.take_in(messages, &mut queries, &mut stirred) {
                self.close(&error, queries);
                return;
            }
            self.write_tick(&mut stirred);
            self.step_until_quiet(&mut stirred);
            for (partition, query) in queries {
                self.answer_query(partition, query);
            }
            self.log.flush();
            self.shared.rounds.fetch_add(1, Ordering::Relaxed);
            self.shared
                .tickets
                .store(self.tickets.len() as u64, Ordering::Relaxed);
            let stopped = self
                .tasks
                .iter()
                .filter(|task| task.stopped().is_some())
                .count();
            self.shared
                .stopped_tasks
                .store(stopped as u64, Ordering::Relaxed);
            if let Some(trouble) = self.in_flight.trouble() {
                if let Err(why) = self.reopen_all(trouble) {
                    self.close(&why, Vec::new());
                    return;
                }
                stirred = self.partitions();
            }
            self.snapshot_where_due();
            if stop {
                self.finish();
                return;
            }
        }
    }

    fn partitions(&self) -> BTreeSet<u16> {
        self.tasks
            .iter()
            .map(|task| task.spec().partition)
            .collect()
    }

    fn task(&mut self, partition: u16) -> Option<&mut Task<P>> {
        self.tasks
            .get_mut(usize::from(partition / self.thread_count))
    }

    /// Sleeps until something was submitted, somebody else appended, a tick is due, or the stop.
    fn wait(&mut self, stirred: &BTreeSet<u16>) -> (Vec<Message<P>>, bool) {
        let sleep = match self.due() {
            Some(due) => {
                let ms = u64::try_from(due.saturating_sub(self.log.now())).unwrap_or(0);
                SLEEP_MAX.min(Duration::from_millis(ms.max(1)))
            }
            None => SLEEP_MAX,
        };
        let mut inbox = self.shared.lock();
        self.shared.sleeping.store(true, Ordering::SeqCst);
        if inbox.messages.is_empty()
            && !inbox.stop
            && stirred.is_empty()
            && !self.shared.stirred.load(Ordering::SeqCst)
        {
            let waited = self.shared.arrived.wait_timeout(inbox, sleep);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.shared.sleeping.store(false, Ordering::SeqCst);
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes < ROUND_BYTES {
            let Some(message) = inbox.messages.pop_front() else {
                break;
            };
            if let Message::Submit { bytes: size, .. } = &message {
                bytes += size;
            }
            messages.push(message);
        }
        inbox.bytes -= bytes;
        self.shared
            .inbox_bytes
            .store(inbox.bytes as u64, Ordering::Relaxed);
        let stop = inbox.stop && inbox.messages.is_empty();
        (messages, stop)
    }

    /// Appends what was submitted to the input topic, in one append.
    fn take_in(
        &mut self,
        messages: Vec<Message<P>>,
        queries: &mut Vec<(u16, (Query<P>, Reply))>,
        stirred: &mut BTreeSet<u16>,
    ) -> Result<(), String> {
        let now = self.log.now();
        let mut batches: Vec<Option<BatchBuilder>> = Vec::new();
        batches.resize_with(self.tasks.len(), || None);
        let mut opened: Vec<u64> = Vec::new();
        for message in messages {
            let (packs, ticket) = match message {
                Message::Query {
                    partition,
                    query,
                    on_stop,
                } => {
                    queries.push((partition, (query, on_stop)));
                    continue;
                }
                Message::Submit { packs, ticket, .. } => (packs, ticket),
            };
            for (partition, pack) in packs {
                if let Some(why) = self.task(partition).and_then(|task| task.stopped()) {
                    let why = format!("partition {partition} stopped: {why}");
                    ticket.refused(&SubmitError::Stopped(why));
                    continue;
                }
                let number = self.next_ticket;
                self.next_ticket += 1;
                let key = ticket_key(self.instance, number);
                let place = usize::from(partition / self.thread_count);
                let Some(batch) = batches.get_mut(place) else {
                    continue;
                };
                batch
                    .get_or_insert_default()
                    .push(now, Some(&key), Some(&pack), &[]);
                self.tickets.open(partition, number, Arc::clone(&ticket));
                opened.push(number);
            }
        }
        if opened.is_empty() {
            return Ok(());
        }
        let mut appended = Vec::new();
        for (task, batch) in self.tasks.iter().zip(batches) {
            let Some(batch) = batch.and_then(BatchBuilder::finish) else {
                continue;
            };
            let partition = task.spec().partition;
            stirred.insert(partition);
            appended.push((
                TopicPartition {
                    topic: self.topics.input,
                    partition,
                },
                batch,
            ));
        }
        let append = Append {
            purpose: Purpose::Intake,
            batches: appended,
            consumed: Vec::new(),
            on_end: Some(self.in_flight.begin(|_| ())),
        };
        let error = match self.log.append(&self.token, append) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        self.in_flight.refused();
        let submit_error = match &error {
            AppendError::NoSpace => SubmitError::NoSpace,
            AppendError::TooLarge { bytes, limit } => SubmitError::TooLarge {
                bytes: *bytes,
                limit: *limit,
            },
            other => SubmitError::Stopped(other.to_string()),
        };
        for number in opened {
            if let Some(ticket) = self.tickets.withdraw(number) {
                ticket.refused(&submit_error);
            }
        }
        match submit_error {
            SubmitError::Stopped(why) => Err(why),
            _ => Ok(()),
        }
    }

    fn step_until_quiet(&mut self, stirred: &mut BTreeSet<u16>) {
        while let Some(partition) = stirred.pop_first() {
            let place = usize::from(partition / self.thread_count);
            let thread_count = self.thread_count;
            let Some(task) = self.tasks.get_mut(place) else {
                continue;
            };
            // Another thread's partition is stirred by the log's listener.
            let mine = task.spec().partition % thread_count;
            let mut around = Surroundings {
                log: &self.log,
                in_flight: &self.in_flight,
                tickets: &mut self.tickets,
                instance: self.instance,
                stirred: &mut |to| {
                    if to % thread_count == mine {
                        stirred.insert(to);
                    }
                },
            };
            match task.step(&mut around) {
                Stepped::Idle => {}
                Stepped::Moved => {
                    stirred.insert(partition);
                }
                Stepped::Panicked => {
                    self.shared.panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(partition, "processing panicked, restoring the partition");
                    self.reopen(partition);
                    stirred.insert(partition);
                }
                Stepped::Stopped => {
                    tracing::error!(partition, why = task.stopped(), "the task stopped");
                    self.tickets.fail_partition(partition);
                }
            }
        }
    }

    fn reopen(&mut self, partition: u16) {
        let empty = (self.make)(partition);
        let log = Arc::clone(&self.log);
        let Some(task) = self.task(partition) else {
            return;
        };
        if let Err(error) = task.reopen(&log, empty) {
            task.stop(error.to_string());
        }
    }

    /// After an append that did not end well: what came after it in memory may never have happened.
    fn reopen_all(&mut self, trouble: Ending) -> Result<(), String> {
        tracing::warn!(
            ?trouble,
            "an append did not become durable, reopening the tasks"
        );
        let began = std::time::Instant::now();
        while self.in_flight.count() > 0 {
            if began.elapsed() > SETTLE_MAX {
                return Err("appends in flight did not end".to_owned());
            }
            self.log.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
        for ticket in self.tickets.drain() {
            ticket
                .failed("it is not known whether this took effect; send it again with the same id");
        }
        self.in_flight.clear_trouble();
        let intake = Arc::clone(&self.token.owner);
        self.token = self.log.claim(&intake).map_err(|error| error.to_string())?;
        for partition in self.partitions() {
            if trouble == Ending::Fenced {
                if let Some(task) = self.task(partition) {
                    task.stop("somebody else owns this partition now".to_owned());
                }
                continue;
            }
            self.reopen(partition);
        }
        if trouble == Ending::Fenced {
            return Err("somebody else owns these partitions now".to_owned());
        }
        Ok(())
    }

    fn answer_query(&mut self, partition: u16, (query, on_stop): (Query<P>, Reply)) {
        let in_flight = self.in_flight.clone();
        let Some(task) = self.task(partition) else {
            return;
        };
        if let Some(why) = task.stopped() {
            let why = why.to_owned();
            on_stop(Err(SubmitError::Stopped(why)));
            return;
        }
        let reply = query(&mut task.processor);
        in_flight.after(Box::new(move |good| {
            if good {
                reply(Ok(()));
            } else {
                reply(Err(SubmitError::Stopped(
                    "its last write is not durable".to_owned(),
                )));
            }
        }));
    }

    /// When the next tick is wanted.
    fn due(&self) -> Option<i64> {
        self.tasks
            .iter()
            .filter_map(|task| self.tick_wanted(task))
            .min()
    }

    fn tick_wanted(&self, task: &Task<P>) -> Option<i64> {
        let due = task.stopped().is_none().then(|| task.processor.due())??;
        (self.ticked.get(&task.spec().partition) != Some(&due)).then_some(due)
    }

    /// Writes a tick to every partition where something is due and nothing else came.
    fn write_tick(&mut self, stirred: &mut BTreeSet<u16>) {
        let now = self.log.now();
        let mut batches = Vec::new();
        for place in 0..self.tasks.len() {
            let Some(task) = self.tasks.get(place) else {
                continue;
            };
            let partition = task.spec().partition;
            let Some(due) = self.tick_wanted(task).filter(|due| *due <= now) else {
                continue;
            };
            if stirred.contains(&partition) {
                continue;
            }
            let mut batch = BatchBuilder::new();
            batch.push(now, None, Some(&task.processor.tick()), &[]);
            let at = TopicPartition {
                topic: self.topics.input,
                partition,
            };
            batches.extend(batch.finish().map(|batch| (at, batch)));
            self.ticked.insert(partition, due);
        }
        if batches.is_empty() {
            return;
        }
        stirred.extend(batches.iter().map(|(at, _)| at.partition));
        let append = Append {
            purpose: Purpose::Decision,
            batches,
            consumed: Vec::new(),
            on_end: Some(self.in_flight.begin(|_| ())),
        };
        if let Err(error) = self.log.append(&self.token, append) {
            self.in_flight.refused();
            tracing::warn!(%error, "a tick was not written");
        }
    }

    fn snapshot_where_due(&mut self) {
        for place in 0..self.tasks.len() {
            let due = self
                .tasks
                .get(place)
                .is_some_and(|task| task.redo_records() >= self.snapshot_every);
            if due {
                self.snapshot(place, true);
            }
        }
    }

    /// Collects the task's state, and writes it once everything in it is durable: a snapshot must
    /// never say more than the log.
    fn snapshot(&mut self, place: usize, in_background: bool) {
        let Some(dir) = self.snapshots.clone() else {
            return;
        };
        let epoch = self.log.epoch();
        let log = Arc::clone(&self.log);
        let Some(task) = self.tasks.get_mut(place) else {
            return;
        };
        let redo = task.spec().at(self.topics.redo);
        let Ok(bounds) = log.bounds(redo, View::Latest) else {
            return;
        };
        let mut builder = SnapshotBuilder::new(epoch, bounds.end);
        task.processor
            .export(&mut |key, value| builder.put(key, value));
        task.snapshot_begun();
        let owner = task.spec().owner();
        let store = move || {
            if let Err(error) = dir.store(&owner, builder) {
                tracing::warn!(%error, "snapshot not written, restarts take longer");
            }
        };
        self.in_flight.after(Box::new(move |good| {
            if !good {
                return;
            }
            if !in_background {
                store();
            } else if let Err(error) = std::thread::Builder::new()
                .name("snapshot".to_owned())
                .spawn(store)
            {
                tracing::warn!(%error, "snapshot not written, restarts take longer");
            }
        }));
    }

    /// Nothing more comes: make everything durable, write snapshots.
    fn finish(&mut self) {
        self.log.flush();
        let began = std::time::Instant::now();
        while self.in_flight.count() > 0 && began.elapsed() < SETTLE_MAX {
            std::thread::sleep(Duration::from_micros(200));
        }
        if self.in_flight.trouble().is_none() && self.in_flight.count() == 0 {
            for place in 0..self.tasks.len() {
                if self
                    .tasks
                    .get(place)
                    .is_some_and(|t| t.stopped().is_none() && t.redo_records() > 0)
                {
                    self.snapshot(place, false);
                }
            }
        }
        self.close("it is shut down", Vec::new());
        self.shared.lock().closed = None;
    }

    /// Takes nothing more and tells everybody who waits.
    fn close(&mut self, why: &str, queries: Vec<(u16, (Query<P>, Reply))>) {
        let left = {
            let mut inbox = self.shared.lock();
            inbox.closed = Some(why.to_owned());
            inbox.stop = true;
            std::mem::take(&mut inbox.messages)
        };
        let stopped = SubmitError::Stopped(why.to_owned());
        for (_, (_, on_stop)) in queries {
            on_stop(Err(stopped.clone()));
        }
        for message in left {
            match message {
                Message::Submit { ticket, .. } => ticket.refused(&stopped),
                Message::Query { on_stop, .. } => on_stop(Err(stopped.clone())),
            }
        }
        for ticket in self.tickets.drain() {
            ticket
                .failed("it is not known whether this took effect; send it again with the same id");
        }
    }
}
