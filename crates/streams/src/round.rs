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
use std::time::{Duration, Instant};

use onhand_log::{Append, AppendError, BatchBuilder, Log, Purpose, Token, TopicPartition};

use crate::inbox::{Driving, Message, Query, Reply, Shared, SubmitError};
use crate::inflight::InFlight;
use crate::opener::Closing;
use crate::processor::Processor;
use crate::snapshot::{SnapshotDir, Turns};
use crate::task::{Stepped, Surroundings, Task, Topics, ticket_key};
use crate::tickets::Tickets;

/// A round takes in at most this much, so that its decisions come out soon.
const ROUND_BYTES: usize = 2 << 20;

/// A worker never sleeps longer, so that it notices what nothing announces (wall time for ticks).
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// Before what the log did not give or take for now is tried again.
const AGAIN_PAUSE: Duration = Duration::from_millis(500);

/// Why nothing is taken any more after a panic that is none of a record's.
const PANICKED: &str =
    "a round of its work panicked; start the node again, what was acknowledged is in the log";

/// Everything that the tasks of one worker need.
pub(crate) struct Round<P: Processor> {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) token: Token,
    pub(crate) topics: Topics,
    /// The task of partition p stands at p / thread_count; `None`: it is not open here.
    pub(crate) tasks: Vec<Option<Task<P>>>,
    pub(crate) thread_count: u16,
    pub(crate) make: Arc<dyn Fn(u16) -> P + Send + Sync>,
    pub(crate) in_flight: InFlight,
    pub(crate) tickets: Tickets,
    pub(crate) instance: u32,
    pub(crate) next_ticket: u64,
    pub(crate) snapshots: Option<SnapshotDir>,
    pub(crate) snapshot_redo_bytes: usize,
    pub(crate) snapshot_turns: Turns,
    /// One for each place of a task.
    pub(crate) standings: Vec<Standing>,
    /// Tasks that go on until their outcomes are out, and then leave. One of each partition at most.
    pub(crate) closing: Vec<Closing<P>>,
    pub(crate) put_off: PutOff,
}

/// Partitions for which the log could not do something: it is tried again after a pause.
#[derive(Default)]
pub(crate) struct PutOff {
    until: Option<Instant>,
    unread: BTreeSet<u16>,
    unticked: BTreeSet<u16>,
}

impl PutOff {
    fn begin_pause(&mut self) {
        self.until
            .get_or_insert_with(|| Instant::now() + AGAIN_PAUSE);
    }

    /// What is to be tried now: nothing before the pause is over.
    fn take_due(&mut self) -> Self {
        match self.until {
            Some(until) if Instant::now() >= until => std::mem::take(self),
            _ => Self::default(),
        }
    }
}

/// What every round asks of every task, kept side by side: reading it in the tasks themselves would
/// touch all of their memory for a command that concerns one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Standing {
    /// When the task wants a tick.
    due: Option<i64>,
    /// The due time for which a tick was last written: it is written once for each, unless it did not
    /// get into the log.
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
        self.try_again(&mut stirred);
        if shared.stirred.swap(false, Ordering::SeqCst) {
            self.partitions().for_each(|p| stirred.insert(p));
        }
        let mut queries = Vec::new();
        if let Err(error) = self.take_in(messages, &mut queries, &mut stirred) {
            self.close(shared, &error, queries);
            return false;
        }
        let stepped = self.write_tick(&mut stirred);
        if let Err(error) = stepped.and_then(|()| self.step_until_quiet(shared, &mut stirred)) {
            self.close(shared, &error, queries);
            return false;
        }
        for (partition, query) in queries {
            self.answer_query(partition, query);
        }
        self.hand_out_where_quiet();
        self.log.flush();
        self.report(shared);
        true
    }

    /// What was put off comes again. The worker's thread sleeps no longer than about the pause.
    fn try_again(&mut self, stirred: &mut Stirred) {
        let due = self.put_off.take_due();
        due.unread.into_iter().for_each(|p| stirred.insert(p));
        due.unticked.into_iter().for_each(|p| self.forget_tick(p));
    }

    /// The tick that was written last for that partition is not in the log, or may not be.
    pub(crate) fn forget_tick(&mut self, partition: u16) {
        let place = self.place(partition);
        if let Some(standing) = self.standings.get_mut(place) {
            standing.ticked = None;
        }
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

    /// Looks at a task again after something was done with it.
    pub(crate) fn note(&mut self, partition: u16) {
        let place = self.place(partition);
        let Some(standing) = self.standings.get_mut(place) else {
            return;
        };
        match self.tasks.get(place).and_then(Option::as_ref) {
            Some(task) => {
                standing.due = task.processor.due();
                standing.stopped = task.stopped().is_some();
            }
            None => *standing = Standing::default(),
        }
    }

    /// The open ones.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = u16> {
        let tasks = self.tasks.iter().flatten();
        tasks.map(|task| task.spec().partition)
    }

    pub(crate) fn place(&self, partition: u16) -> usize {
        usize::from(partition / self.thread_count)
    }

    pub(crate) fn task(&mut self, partition: u16) -> Option<&mut Task<P>> {
        let place = self.place(partition);
        self.tasks.get_mut(place)?.as_mut()
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
                Message::Open(arriving) => {
                    let opened = self.admit(arriving);
                    opened.into_iter().for_each(|p| stirred.insert(p));
                    continue;
                }
                Message::Close(closing) => {
                    self.closing.push(closing);
                    continue;
                }
            };
            if !ticket.is_wanted() {
                ticket.refused(&SubmitError::Unwanted);
                continue;
            }
            let mut asked = packs.iter().map(|(partition, _)| *partition);
            if let Some(moved) = asked.find(|partition| self.task(*partition).is_none()) {
                // It was closed while this was on its way into the inbox.
                ticket.refused(&SubmitError::Moved(moved));
                continue;
            }
            for (partition, pack) in packs {
                if let Some(why) = self.task(partition).and_then(|task| task.stopped()) {
                    let why = format!("partition {partition} stopped: {why}");
                    ticket.refused(&SubmitError::Stopped(why));
                    continue;
                }
                let number = self.next_ticket;
                self.next_ticket += 1;
                let key = ticket_key(self.instance, number);
                let place = self.place(partition);
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
            let batch = batch.and_then(BatchBuilder::finish);
            let (Some(task), Some(batch)) = (task, batch) else {
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

    /// Lets every task that has something to read process it. An error ends the worker.
    fn step_until_quiet(
        &mut self,
        shared: &Shared<P>,
        stirred: &mut Stirred,
    ) -> Result<(), String> {
        while let Some(partition) = stirred.next() {
            let place = self.place(partition);
            let thread_count = self.thread_count;
            // What was sent to a partition that is not open here is for its owner to read.
            let Some(task) = self.tasks.get_mut(place).and_then(Option::as_mut) else {
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
                        // It may pass. Until then the state is half changed.
                        task.stop(error.to_string());
                        self.in_flight.spoil();
                    }
                    stirred.insert(partition);
                }
                Stepped::Unread(error) => {
                    tracing::warn!(partition, %error, "its input was not read, trying again");
                    self.put_off.unread.insert(partition);
                    self.put_off.begin_pause();
                }
                Stepped::Stopped => {
                    tracing::error!(partition, why = task.stopped(), "the task stopped");
                    self.tickets.fail_partition(partition);
                }
                Stepped::Fenced => {
                    return Err(task.stopped().unwrap_or_default().to_owned());
                }
            }
            self.note(partition);
        }
        Ok(())
    }

    fn answer_query(&mut self, partition: u16, (query, on_stop): (Query<P>, Reply)) {
        let in_flight = self.in_flight.clone();
        let Some(task) = self.task(partition) else {
            on_stop(Err(SubmitError::Moved(partition)));
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

    /// Writes a tick to every partition where something is due and nothing else came. An error ends the
    /// worker.
    fn write_tick(&mut self, stirred: &mut Stirred) -> Result<(), String> {
        let now = self.log.now();
        let mut batches = Vec::new();
        for (task, standing) in self.tasks.iter().zip(&mut self.standings) {
            let due = standing.tick_wanted().filter(|due| *due <= now);
            let (Some(task), Some(due)) = (task, due) else {
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
            return Ok(());
        }
        let ticked: BTreeSet<u16> = batches.iter().map(|(at, _)| at.partition).collect();
        ticked.iter().for_each(|p| stirred.insert(*p));
        let append = Append {
            purpose: Purpose::Decision,
            batches,
            consumed: Vec::new(),
            on_end: Some(self.in_flight.begin(|_| ())),
        };
        if let Err(error) = self.log.append(&self.token, append) {
            self.in_flight.refused();
            if matches!(error, AppendError::Fenced { .. }) {
                return Err(error.to_string());
            }
            tracing::warn!(%error, "a tick was not written, trying again");
            self.put_off.unticked.extend(ticked);
            self.put_off.begin_pause();
        }
        Ok(())
    }
}
