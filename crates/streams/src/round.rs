//! A round: append what was submitted, step every task that has something to read until none has, run
//! the queries, flush. So a command, the decisions that follow from it in any number of partitions of
//! this worker, and the answer share one sync.
//!
//! Whoever holds the round's lock does the rounds, one after another; nobody else touches the tasks.
//! That is the worker's thread ([`drive`]), or, while it sleeps, a caller who would only have to wake
//! it and wait ([`drive_here`]): two hand-overs between threads cost as much as a sync.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onhand_log::{
    Append, AppendError, BatchBuilder, Ending, Log, Purpose, Token, TopicPartition, View,
};

use crate::inbox::{Driving, Message, Query, Reply, Shared, SubmitError};
use crate::inflight::InFlight;
use crate::processor::Processor;
use crate::restore::RestoreError;
use crate::snapshot::{LogMark, SnapshotBuilder, SnapshotDir};
use crate::task::{FAILED, Stepped, Surroundings, Task, Tickets, Topics, ticket_key};

/// A round takes in at most this much, so that its decisions come out soon.
const ROUND_BYTES: usize = 2 << 20;

/// A worker never sleeps longer, so that it notices what nothing announces (wall time for ticks).
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// Why nothing is taken any more after a panic that is none of a record's.
const PANICKED: &str =
    "a round of its work panicked; start the node again, what was acknowledged is in the log";

/// Between two tries to reopen the tasks while the log cannot be reached.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// The longest wait for appends in flight before tasks are reopened.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Everything that the tasks of one worker need.
pub(crate) struct Round<P: Processor> {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) token: Token,
    pub(crate) topics: Topics,
    /// The task of partition p stands at p / thread_count.
    pub(crate) tasks: Vec<Task<P>>,
    pub(crate) thread_count: u16,
    pub(crate) make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    pub(crate) in_flight: InFlight,
    pub(crate) tickets: Tickets,
    pub(crate) instance: u32,
    pub(crate) next_ticket: u64,
    pub(crate) snapshots: Option<SnapshotDir>,
    pub(crate) snapshot_redo_bytes: usize,
    /// One for each task.
    pub(crate) standings: Vec<Standing>,
}

/// What every round asks of every task, kept side by side: reading it in the tasks themselves would
/// touch all of their memory for a command that concerns one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Standing {
    /// When the task wants a tick.
    due: Option<i64>,
    /// The due time for which a tick was last written: it is written once for each.
    ticked: Option<i64>,
    stopped: bool,
}

impl Standing {
    /// When a tick is wanted that was not written yet.
    fn tick_wanted(self) -> Option<i64> {
        let due = self.due.filter(|_| !self.stopped);
        due.filter(|_| due != self.ticked)
    }
}

/// The worker's thread: round after round until the stop.
pub(crate) fn drive<P: Processor>(log: &dyn Log, shared: &Shared<P>) {
    loop {
        shared.wait(|due| {
            let ms = u64::try_from(due.saturating_sub(log.now())).unwrap_or(0);
            SLEEP_MAX.min(Duration::from_millis(ms.max(1)))
        });
        let mut held = match shared.round.lock() {
            Ok(held) => held,
            Err(poisoned) => {
                // The tasks may be half changed: nothing more is done with them.
                let mut held = poisoned.into_inner();
                if let Some(round) = held.as_mut() {
                    // What was appended before is whole, and ends as any other.
                    round.log.flush();
                    round.close(shared, PANICKED, Vec::new());
                }
                *held = None;
                return;
            }
        };
        let Some(round) = held.as_mut() else {
            return;
        };
        let _driving = Driving::begin(shared);
        let (messages, stop) = shared.take(ROUND_BYTES);
        let mut goes_on = round.run(shared, messages);
        if goes_on && let Some(trouble) = round.in_flight.trouble() {
            goes_on = round.recover(shared, trouble);
        }
        if goes_on {
            round.snapshot_where_due();
        }
        if goes_on && stop {
            round.finish(shared);
        }
        if !goes_on || stop {
            *held = None;
            return;
        }
    }
}

/// One round on the caller's thread, if nobody is at one. Returns at once otherwise: whoever is
/// looks into the inbox again afterwards.
pub(crate) fn drive_here<P: Processor>(shared: &Shared<P>) {
    let Ok(mut held) = shared.round.try_lock() else {
        return;
    };
    if let Some(round) = held.as_mut() {
        let driving = Driving::begin(shared);
        let (messages, _) = shared.take(ROUND_BYTES);
        let goes_on = round.run(shared, messages);
        let troubled = round.in_flight.trouble().is_some();
        drop(driving);
        if !goes_on {
            *held = None;
        }
        drop(held);
        // Restoring takes long, and so may what came meanwhile: both are the worker's.
        shared.wake_for(troubled);
    }
}

/// Partitions that have something to read, each once, in the order in which they got it: an owner who
/// asked several others finds all their answers at once.
#[derive(Default)]
struct Stirred {
    queue: VecDeque<u16>,
    queued: BTreeSet<u16>,
}

impl Stirred {
    fn insert(&mut self, partition: u16) {
        if self.queued.insert(partition) {
            self.queue.push_back(partition);
        }
    }

    fn contains(&self, partition: u16) -> bool {
        self.queued.contains(&partition)
    }

    fn next(&mut self) -> Option<u16> {
        let next = self.queue.pop_front()?;
        self.queued.remove(&next);
        Some(next)
    }
}

impl<P: Processor> Round<P> {
    /// One round. Returns whether there will be others.
    fn run(&mut self, shared: &Shared<P>, messages: Vec<Message<P>>) -> bool {
        let mut stirred = Stirred::default();
        if shared.stirred.swap(false, Ordering::SeqCst) {
            self.partitions().for_each(|p| stirred.insert(p));
        }
        let mut queries = Vec::new();
        if let Err(error) = self.take_in(messages, &mut queries, &mut stirred) {
            self.close(shared, &error, queries);
            return false;
        }
        self.write_tick(&mut stirred);
        self.step_until_quiet(shared, &mut stirred);
        for (partition, query) in queries {
            self.answer_query(partition, query);
        }
        self.log.flush();
        self.report(shared);
        true
    }

    /// What others may know of it between two rounds.
    fn report(&self, shared: &Shared<P>) {
        shared.rounds.fetch_add(1, Ordering::Relaxed);
        let tickets = self.tickets.len() as u64;
        shared.tickets.store(tickets, Ordering::Relaxed);
        let standings = self.standings.iter();
        let stopped = standings.clone().filter(|one| one.stopped).count() as u64;
        shared.stopped_tasks.store(stopped, Ordering::Relaxed);
        let due = standings.filter_map(|one| one.tick_wanted()).min();
        shared.due.store(due.unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Looks at every task.
    pub(crate) fn note_all(&mut self) {
        let partitions: Vec<u16> = self.partitions().collect();
        for partition in partitions {
            self.note(partition);
        }
    }

    /// Looks at a task again after something was done with it.
    fn note(&mut self, partition: u16) {
        let place = usize::from(partition / self.thread_count);
        if let (Some(task), Some(standing)) = (self.tasks.get(place), self.standings.get_mut(place))
        {
            standing.due = task.processor.due();
            standing.stopped = task.stopped().is_some();
        }
    }

    /// Reopens the tasks after an append that did not end well. Returns whether they go on. While the log
    /// cannot be reached it waits: what is submitted meanwhile waits too, up to the inbox's bound.
    fn recover(&mut self, shared: &Shared<P>, trouble: Ending) -> bool {
        loop {
            let error = match self.reopen_all(trouble) {
                Ok(()) => break,
                Err(error) => error,
            };
            if !error.may_pass() || shared.lock().stop {
                self.close(shared, &error.to_string(), Vec::new());
                return false;
            }
            tracing::warn!(%error, "the tasks cannot be reopened yet, trying again");
            std::thread::sleep(REOPEN_PAUSE);
        }
        shared.stirred.store(true, Ordering::SeqCst);
        true
    }

    fn partitions(&self) -> impl Iterator<Item = u16> {
        self.tasks.iter().map(|task| task.spec().partition)
    }

    fn task(&mut self, partition: u16) -> Option<&mut Task<P>> {
        self.tasks
            .get_mut(usize::from(partition / self.thread_count))
    }

    /// Appends what was submitted to the input topic, in one append.
    fn take_in(
        &mut self,
        messages: Vec<Message<P>>,
        queries: &mut Vec<(u16, (Query<P>, Reply))>,
        stirred: &mut Stirred,
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

    fn step_until_quiet(&mut self, shared: &Shared<P>, stirred: &mut Stirred) {
        while let Some(partition) = stirred.next() {
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
                    shared.panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(partition, "processing panicked, restoring the partition");
                    if let Err(error) = self.reopen(partition)
                        && let Some(task) = self.task(partition)
                    {
                        task.stop(error.to_string());
                    }
                    stirred.insert(partition);
                }
                Stepped::Stopped => {
                    tracing::error!(partition, why = task.stopped(), "the task stopped");
                    self.tickets.fail_partition(partition);
                }
            }
            self.note(partition);
        }
    }

    /// Restores a task from the log. What does not fit stops it; what may pass is left to the caller.
    fn reopen(&mut self, partition: u16) -> Result<(), RestoreError> {
        let empty = (self.make)(partition);
        let log = Arc::clone(&self.log);
        let Some(task) = self.task(partition) else {
            return Ok(());
        };
        let reopened = match task.reopen(&log, empty) {
            Err(error) if error.may_pass() => Err(error),
            Err(error) => {
                task.stop(error.to_string());
                Ok(())
            }
            Ok(_) => Ok(()),
        };
        self.note(partition);
        reopened
    }

    /// After an append that did not end well: what came after it in memory may never have happened.
    fn reopen_all(&mut self, trouble: Ending) -> Result<(), RestoreError> {
        tracing::warn!(
            ?trouble,
            "an append did not become durable, reopening the tasks"
        );
        let began = std::time::Instant::now();
        while self.in_flight.count() > 0 {
            if began.elapsed() > SETTLE_MAX {
                let why = "appends in flight did not end".to_owned();
                return Err(AppendError::Stopped(why).into());
            }
            self.log.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
        for ticket in self.tickets.drain() {
            ticket.failed(FAILED);
        }
        self.in_flight.clear_trouble();
        let owner = Arc::clone(&self.token.owner);
        if trouble == Ending::Fenced {
            // Claiming anything now would take it back from whoever has it, who would do the same.
            return Err(AppendError::Fenced { owner }.into());
        }
        self.token = self.log.claim(&owner)?;
        let partitions: Vec<u16> = self.partitions().collect();
        partitions.into_iter().try_for_each(|p| self.reopen(p))
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
        self.note(partition);
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

    /// Writes a tick to every partition where something is due and nothing else came.
    fn write_tick(&mut self, stirred: &mut Stirred) {
        let now = self.log.now();
        let mut batches = Vec::new();
        for (task, standing) in self.tasks.iter().zip(&mut self.standings) {
            let Some(due) = standing.tick_wanted().filter(|due| *due <= now) else {
                continue;
            };
            let partition = task.spec().partition;
            if stirred.contains(partition) {
                continue;
            }
            let mut batch = BatchBuilder::new();
            batch.push(now, None, Some(&task.processor.tick()), &[]);
            let at = TopicPartition {
                topic: self.topics.input,
                partition,
            };
            batches.extend(batch.finish().map(|batch| (at, batch)));
            standing.ticked = Some(due);
        }
        if batches.is_empty() {
            return;
        }
        batches
            .iter()
            .for_each(|(at, _)| stirred.insert(at.partition));
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
                .is_some_and(|task| task.is_snapshot_due(self.snapshot_redo_bytes));
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
        let log = Arc::clone(&self.log);
        let Some(task) = self.tasks.get_mut(place) else {
            return;
        };
        let redo = task.spec().at(self.topics.redo);
        let Ok(bounds) = log.bounds(redo, View::Latest) else {
            return;
        };
        let mut builder = SnapshotBuilder::new(
            LogMark::of(log.as_ref()),
            bounds.end,
            task.redo_bytes() as u64,
        );
        task.processor
            .export(&mut |key, value| builder.put(key, value));
        task.snapshot_begun(builder.len());
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
    fn finish(&mut self, shared: &Shared<P>) {
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
                    .is_some_and(|t| t.stopped().is_none() && t.is_unsnapped())
                {
                    self.snapshot(place, false);
                }
            }
        }
        self.close(shared, "it is shut down", Vec::new());
        shared.lock().closed = None;
    }

    /// Takes nothing more and tells everybody who waits.
    fn close(&mut self, shared: &Shared<P>, why: &str, queries: Vec<(u16, (Query<P>, Reply))>) {
        shared.close(why);
        let stopped = self.tasks.len() as u64;
        shared.stopped_tasks.store(stopped, Ordering::Relaxed);
        for (_, (_, on_stop)) in queries {
            on_stop(Err(SubmitError::Stopped(why.to_owned())));
        }
        for ticket in self.tickets.drain() {
            ticket.failed(FAILED);
        }
    }
}
