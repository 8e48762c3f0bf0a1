//! A task: the owner of one partition.
//!
//! It reads a batch, processes it, and commits everything that follows in one append. Between steps it
//! decides whether a round of the changelog is due: the changelog is written *behind* the redo topic.
//! Every decision is in the log at once; the state it led to follows when the decisions since the last
//! round are `REDO_PER_CHANGELOG` times larger than what they touched. So a hot key costs one record
//! per round instead of one per append, the changelog is a bounded fraction of the log whatever the
//! workload, and a restore reads at most that much redo behind it.
//!
//! A round is the state of one moment. It goes out in pieces, some with each append, and counts once
//! the mark at its end is in the log.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use onhand_log::{
    Append, AppendError, BatchBuilder, Consumed, Header, Log, Offset, Purpose, ReadError, Record,
    RecordBatch, Token, TopicId, TopicPartition, View,
};

use crate::claim;
use crate::cut::Cut;
use crate::inflight::InFlight;
use crate::processor::{AnswerPlace, AnswerTo, Delivery, Processor, Step};
use crate::publish::{self, Last, Notes, PUBLISHED_BYTES_MAX, Publish, Published};
use crate::restore::{self, REDO_MARK, Reading, RestoreError, Restored, Whole};
use crate::snapshot::SnapshotDir;
use crate::tickets::{Deliveries, FAILED, Tickets};

/// How much is read at once. Large enough that a busy partition is one read per round.
const READ_BYTES: usize = 1 << 20;

/// The changelog is due when this many bytes of redo stand against one byte touched: it costs at most
/// an eighth of what the redo topic costs.
const REDO_PER_CHANGELOG: usize = 8;

/// A snapshot is due when the redo behind the last one is so many times as large: it costs the disk at
/// most a quarter of what the redo topic costs, and what a restart applies again is bounded by it.
pub(crate) const REDO_PER_SNAPSHOT: usize = 4;

/// Below this much redo the changelog is not worth a record.
const REDO_BYTES_MIN: usize = 64 << 10;

/// Changelog records are put into batches of about this size, and about so much goes with one append:
/// with the step's own output it fits what any log takes at once.
const CHANGELOG_BATCH_BYTES: usize = 256 << 10;
const CHANGELOG_APPEND_BYTES: usize = 512 << 10;

/// What a record takes in a batch beside its key and value, at most.
const RECORD_OVERHEAD: usize = 24;

/// The topics of a topology.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topics {
    /// What tasks process: what callers submit, what tasks send each other, and ticks.
    pub input: TopicId,
    /// Where each step's redo record goes: decisions, applied again in a restore.
    pub redo: TopicId,
    /// Compacted.
    pub changelog: TopicId,
}

/// Which task it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskSpec {
    /// The topology's name; part of the name that owns the partition.
    pub name: Arc<str>,
    /// Where it reads and writes.
    pub topics: Topics,
    /// The partition it owns, in each of these topics.
    pub partition: u16,
}

/// The name that owns a partition of the task of that name.
pub fn owner_of(name: &str, partition: u16) -> String {
    format!("{name}/{partition}")
}

impl TaskSpec {
    pub(crate) fn owner(&self) -> String {
        owner_of(&self.name, self.partition)
    }

    pub(crate) fn unfit(&self, what: String) -> RestoreError {
        RestoreError::Unfit {
            partition: self.partition,
            what,
        }
    }

    pub(crate) fn at(&self, topic: TopicId) -> TopicPartition {
        TopicPartition {
            topic,
            partition: self.partition,
        }
    }
}

/// What a worker lends to its tasks.
pub(crate) struct Surroundings<'w> {
    pub(crate) log: &'w Arc<dyn Log>,
    pub(crate) in_flight: &'w InFlight,
    pub(crate) tickets: &'w mut Tickets,
    /// This process's mark in the keys of submitted records.
    pub(crate) instance: u32,
    /// Partitions that a step sent something to are marked here.
    pub(crate) stirred: &'w mut dyn FnMut(u16),
}

/// How a step went.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Stepped {
    /// Nothing to read.
    Idle,
    /// Something was processed and appended.
    Moved,
    /// It panicked: the task must be reopened before its next step.
    Panicked,
    /// It will not go on; the reason is kept.
    Stopped,
    /// Somebody else owns its partition, and so, soon, all that this worker had; the reason is kept.
    Fenced,
    /// The log cannot be read now, which may pass.
    Unread(ReadError),
}

/// The owner of one partition.
pub(crate) struct Task<P> {
    spec: TaskSpec,
    token: Token,
    pub(crate) processor: P,
    next: Offset,
    redo_bytes: usize,
    /// Redo since the state was last complete in a snapshot, bytes.
    unsnapped_bytes: usize,
    /// What that snapshot took; 0: not known.
    snapshot_bytes: usize,
    /// What is still to be written of the round of the changelog that was begun. Bounded by what the
    /// state takes in the changelog.
    changelog_left: VecDeque<RecordBatch>,
    /// Parts of input records whose processing panicked, by the record's offset.
    parked: BTreeMap<Offset, Vec<(u32, String)>>,
    /// The record that the last step ended within.
    cut: Option<Cut>,
    /// The last redo record when it was opened.
    last: Option<Last>,
    publish: Option<Arc<dyn Publish>>,
    /// Every redo record before the next is published, and so may that be.
    publishes: bool,
    /// What somebody here who asked for that record is to hear, as far as it was decided.
    begun: Option<Begun>,
    stopped: Option<String>,
}

/// An answer whose record was cut.
struct Begun {
    ticket: u64,
    cut: Cut,
    pack: Bytes,
    place: AnswerPlace,
}

impl<P> fmt::Debug for Task<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("spec", &self.spec)
            .field("next", &self.next)
            .finish()
    }
}

impl<P: Processor> Task<P> {
    /// Restores the state of a partition that was claimed.
    pub(crate) fn open(
        log: &Arc<dyn Log>,
        token: Token,
        spec: TaskSpec,
        make: &dyn Fn() -> P,
        snapshots: Option<&SnapshotDir>,
        left: &AtomicU64,
    ) -> Result<(Self, Restored), RestoreError> {
        let reading = Reading {
            log: log.as_ref(),
            spec: &spec,
            view: View::Latest,
            left,
            cancelled: None,
        };
        // What is half restored is thrown away.
        let whole = guarded(&spec, || restore::restore(reading, make, snapshots))?;
        let Whole {
            processor,
            restored,
            last,
            ..
        } = whole;
        let redo_bytes = restored.redo_bytes_before + restored.redo_bytes;
        let unsnapped_bytes = restored.redo_bytes;
        let task = Self::of_state(
            log,
            token,
            spec,
            processor,
            redo_bytes,
            unsnapped_bytes,
            last,
        )?;
        Ok((task, restored))
    }

    /// The task of a partition that was claimed, with the state that all its redo records led to, how
    /// much of them stands behind the last round of the changelog and the last snapshot, and what the
    /// last of them says.
    pub(crate) fn of_state(
        log: &Arc<dyn Log>,
        token: Token,
        spec: TaskSpec,
        processor: P,
        redo_bytes: usize,
        unsnapped_bytes: usize,
        last: Option<Last>,
    ) -> Result<Self, RestoreError> {
        let input = spec.at(spec.topics.input);
        let next = match log.consumed(&spec.owner(), input)? {
            Some(next) => next,
            None => log.bounds(input, View::Latest)?.start,
        };
        Ok(Self {
            next,
            redo_bytes,
            unsnapped_bytes,
            cut: last.and_then(|last| last.cut),
            last,
            stopped: None,
            ..Self::stopped_before_start(spec, token, processor, String::new())
        })
    }

    /// The task of a partition that is claimed and could not be restored.
    pub(crate) fn stopped_before_start(
        spec: TaskSpec,
        token: Token,
        empty: P,
        why: String,
    ) -> Self {
        Self {
            spec,
            token,
            processor: empty,
            next: 0,
            redo_bytes: 0,
            unsnapped_bytes: 0,
            snapshot_bytes: 0,
            changelog_left: VecDeque::new(),
            parked: BTreeMap::new(),
            cut: None,
            last: None,
            publish: None,
            publishes: false,
            begun: None,
            stopped: Some(why),
        }
    }

    /// Takes the partition again and rebuilds the state from the log, after a panic or an append that
    /// did not end well. What panicked is remembered, so that it is parked this time.
    pub(crate) fn reopen(
        &mut self,
        log: &Arc<dyn Log>,
        make: &dyn Fn() -> P,
    ) -> Result<Restored, RestoreError> {
        let token = claim::claim(log.as_ref(), &self.spec)?;
        let left = AtomicU64::new(0);
        let (mut fresh, restored) = Self::open(log, token, self.spec.clone(), make, None, &left)?;
        // Where it does not publish the follower may do so now, and its position be ahead of what becomes
        // durable.
        if self.publishes {
            fresh.begin_publishing(log.as_ref(), self.publish.as_ref())?;
        }
        fresh.parked = std::mem::take(&mut self.parked);
        let begun = self.begun.take();
        fresh.begun = begun.filter(|begun| fresh.cut == Some(begun.cut));
        *self = fresh;
        Ok(restored)
    }

    /// From here on steps are published in their own appends, if all before is published.
    pub(crate) fn begin_publishing(
        &mut self,
        log: &dyn Log,
        publish: Option<&Arc<dyn Publish>>,
    ) -> Result<(), ReadError> {
        self.publish = publish.cloned();
        self.publishes = match publish {
            Some(publish) => publish::is_level(log, &self.spec, self.last, publish.as_ref())?,
            None => false,
        };
        if publish.is_some() && !self.publishes {
            tracing::info!(
                partition = self.spec.partition,
                "earlier decisions are not published yet: until the partition is opened again its views \
                 follow its decisions somewhat later"
            );
        }
        Ok(())
    }

    pub(crate) fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Whether anything is in the state that no snapshot has. While a round of the changelog is
    /// half written none is taken: what the rest of it holds counts as written already. Nor of a task
    /// that stopped: its state may be ahead of the log.
    pub(crate) fn is_unsnapped(&self) -> bool {
        self.stopped.is_none() && self.unsnapped_bytes > 0 && self.changelog_left.is_empty()
    }

    /// Whether a snapshot would shorten a restart by more than it costs; not below `least` bytes of
    /// redo.
    pub(crate) fn is_snapshot_due(&self, least: usize) -> bool {
        let grown = self.snapshot_bytes.saturating_mul(REDO_PER_SNAPSHOT);
        self.is_unsnapped() && self.unsnapped_bytes >= grown.max(least)
    }

    /// As [`Task::is_snapshot_due`], for a task that leaves: one that takes about `cheap` or less is
    /// worth it whenever there is something new.
    pub(crate) fn is_snapshot_worth_it(&self, cheap: usize) -> bool {
        self.is_snapshot_due(0) || self.is_unsnapped() && self.snapshot_bytes <= cheap
    }

    /// Bytes of redo that no snapshot has.
    pub(crate) fn unsnapped_bytes(&self) -> usize {
        self.unsnapped_bytes
    }

    /// Bytes of redo since the last round of the changelog.
    pub(crate) fn redo_bytes(&self) -> usize {
        self.redo_bytes
    }

    /// The state, as it is now, is on its way into a snapshot of that size.
    pub(crate) fn snapshot_begun(&mut self, bytes: usize) {
        self.unsnapped_bytes = 0;
        self.snapshot_bytes = bytes;
    }

    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    pub(crate) fn stop(&mut self, why: String) {
        self.stopped = Some(why);
    }

    /// Reads what is there and processes it.
    pub(crate) fn step(&mut self, around: &mut Surroundings<'_>) -> Stepped {
        if self.stopped.is_some() {
            return Stepped::Stopped;
        }
        let input = self.spec.at(self.spec.topics.input);
        let fetch = match around.log.read(input, self.next, READ_BYTES, View::Latest) {
            Ok(fetch) => fetch,
            Err(error @ ReadError::Io(_)) => return Stepped::Unread(error),
            Err(error) => return self.stop_for(&error.into()),
        };
        if fetch.next == self.next {
            return self.write_on_changelog(around);
        }
        let mut step = Step::default();
        for batch in &fetch.batches {
            for record in batch.records() {
                // One that is cut comes again for the rest.
                while record.offset >= self.next {
                    if let Err(stepped) = self.process(&record, &mut step, around) {
                        return stepped;
                    }
                    if step.cut.is_some() || self.processor.is_full() {
                        let full = std::mem::take(&mut step);
                        if let Err(error) = self.commit(full, around) {
                            return self.stop_for(&error);
                        }
                    }
                }
            }
            self.next = self.next.max(batch.next_offset());
        }
        self.next = fetch.next;
        if let Err(error) = self.commit(step, around) {
            return self.stop_for(&error);
        }
        Stepped::Moved
    }

    /// Processes a record, or what is left of one that was cut, up to its end or to where it is cut.
    fn process(
        &mut self,
        record: &Record<'_>,
        step: &mut Step,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Stepped> {
        let cut = self.cut.filter(|cut| cut.offset == record.offset);
        step.done = cut.map_or(0, |cut| cut.parts);
        step.ticket = own_ticket(record.key, around.instance);
        if let (Some(_), Some(ticket), None) = (cut, step.ticket, &self.begun) {
            // What was decided before it came again is not at hand, and half an answer is none.
            step.ticket = None;
            if let Some(ticket) = around.tickets.withdraw(ticket) {
                ticket.failed(FAILED);
            }
        }
        step.undecided = 0;
        step.parked = self.parked.get(&record.offset).cloned().unwrap_or_default();
        step.working_on = step.done;
        let processor = &mut self.processor;
        // The state may be half changed after a panic: it is thrown away and restored.
        let result = catch_unwind(AssertUnwindSafe(|| processor.process(record, step)));
        if let Err(panic) = result {
            let text = panic_text(panic.as_ref());
            self.parked
                .entry(record.offset)
                .or_default()
                .push((step.working_on, text));
            return Err(Stepped::Panicked);
        }
        if let Some(why) = step.stop.take() {
            self.stopped = Some(why);
            return Err(Stepped::Stopped);
        }
        self.cut = step.cut.map(|parts| Cut {
            offset: record.offset,
            parts,
        });
        if self.cut.is_none() {
            self.parked.remove(&record.offset);
            self.next = record.offset + 1;
        }
        Ok(())
    }

    fn stop_for(&mut self, error: &CommitError) -> Stepped {
        self.stopped = Some(error.to_string());
        match error {
            CommitError::Append(AppendError::Fenced { .. }) => Stepped::Fenced,
            _ => Stepped::Stopped,
        }
    }

    /// Appends everything that the step put out, with the input position behind it.
    fn commit(&mut self, mut step: Step, around: &mut Surroundings<'_>) -> Result<(), CommitError> {
        self.processor.finish(&mut step);
        let now = around.log.now();
        let mut batches = Vec::with_capacity(2 + step.sends.len());
        let mut pack = Bytes::new();
        if let Some(value) = step.redo.take() {
            pack = Bytes::from(value);
            self.redo_bytes += pack.len();
            self.unsnapped_bytes += pack.len();
            let published = self.published(&pack);
            let notes = Notes::new(self.cut, published.as_ref());
            let mut batch = BatchBuilder::with_capacity(pack.len() + RECORD_OVERHEAD);
            batch.push(now, None, Some(&pack), &notes.headers());
            batches.extend(
                batch
                    .finish()
                    .map(|batch| (self.spec.at(self.spec.topics.redo), batch)),
            );
            batches.extend(published.unwrap_or_default().batches);
        }
        for (partition, values) in std::mem::take(&mut step.sends) {
            let bytes = values.iter().map(|value| value.len() + RECORD_OVERHEAD);
            let mut batch = BatchBuilder::with_capacity(bytes.sum());
            for value in &values {
                batch.push(now, None, Some(value), &[]);
            }
            let to = TopicPartition {
                topic: self.spec.topics.input,
                partition,
            };
            batches.extend(batch.finish().map(|batch| (to, batch)));
            (around.stirred)(partition);
        }
        for side in std::mem::take(&mut step.side) {
            let headers: Vec<Header<'_>> = side
                .headers
                .iter()
                .map(|(key, value)| Header {
                    key,
                    value: Some(value),
                })
                .collect();
            let mut batch = BatchBuilder::new();
            batch.push(now, Some(&side.key), Some(&side.value), &headers);
            let to = TopicPartition {
                topic: side.topic,
                partition: side.partition,
            };
            batches.extend(batch.finish().map(|batch| (to, batch)));
        }
        self.put_changelog(around.log.as_ref(), now, &mut batches)?;

        for (number, ticket) in &step.pending {
            around.tickets.pend(self.spec.partition, *number, *ticket);
        }
        let mut deliveries = Deliveries::default();
        for (to, place) in &step.answers {
            let answer = match to {
                AnswerTo::Ticket(ticket) => self.whole(*ticket, &pack, *place, step.ticket),
                AnswerTo::Pending(_) => Some((pack.clone(), *place)),
            };
            let Some((pack, place)) = answer else {
                continue;
            };
            if let Some(ticket) = around.tickets.answer(self.spec.partition, *to) {
                let delivery = Delivery {
                    partition: self.spec.partition,
                    pack,
                    offset: place.offset,
                    number: place.number,
                    count: place.count,
                    undecided: place.undecided,
                };
                deliveries.push(ticket, delivery);
            }
        }
        let on_end = around.in_flight.begin(move |good| {
            if good {
                deliveries.deliver();
            }
        });
        let consumed = Consumed {
            at: self.spec.at(self.spec.topics.input),
            next: self.next,
        };
        let append = Append {
            purpose: Purpose::Decision,
            batches,
            consumed: vec![consumed],
            on_end: Some(on_end),
        };
        around
            .log
            .append(&self.token, append)
            .inspect_err(|_| around.in_flight.refused())?;
        Ok(())
    }

    /// What is written for others beside this redo record; `None`: it is left to the follower, and so is all
    /// behind it.
    fn published(&mut self, redo: &[u8]) -> Option<Published> {
        let publish = self.publish.as_ref().filter(|_| self.publishes)?;
        let partition = self.spec.partition;
        // It has no state that a panic could leave half changed.
        let made = catch_unwind(AssertUnwindSafe(|| publish.publish(partition, redo)));
        let why = match made {
            Ok(Ok(published)) if published.bytes() <= PUBLISHED_BYTES_MAX => {
                return Some(published);
            }
            Ok(Ok(published)) => format!("it would take {} bytes", published.bytes()),
            Ok(Err(why)) => why,
            Err(panic) => panic_text(panic.as_ref()),
        };
        let follower = publish.follower();
        tracing::warn!(
            partition,
            follower,
            why,
            "a step could not be published with its decisions; until the partition is opened again the \
             follower publishes them, somewhat later"
        );
        self.publishes = false;
        None
    }

    /// What that ticket hears of its record, all parts together; `None` while some are to come. `last` is
    /// the ticket of the step's last record, the one that a cut is in.
    fn whole(
        &mut self,
        ticket: u64,
        pack: &Bytes,
        place: AnswerPlace,
        last: Option<u64>,
    ) -> Option<(Bytes, AnswerPlace)> {
        let begun = self.begun.take_if(|begun| begun.ticket == ticket);
        let (pack, place) = match begun {
            None => (pack.clone(), place),
            Some(Begun {
                pack: redo,
                place: first,
                ..
            }) => {
                let joined = self.processor.join(&redo, pack, place.count);
                let place = AnswerPlace {
                    count: first.count + place.count,
                    undecided: first.undecided + place.undecided,
                    ..first
                };
                (Bytes::from(joined), place)
            }
        };
        let Some(cut) = self.cut.filter(|_| last == Some(ticket)) else {
            return Some((pack, place));
        };
        self.begun = Some(Begun {
            ticket,
            cut,
            pack,
            place,
        });
        None
    }

    /// Begins a round of the changelog where one is due, and puts the next piece of it into `batches`.
    fn put_changelog(
        &mut self,
        log: &dyn Log,
        now: i64,
        batches: &mut Vec<(TopicPartition, RecordBatch)>,
    ) -> Result<(), ReadError> {
        let touched = self.processor.touched_bytes();
        let due = is_changelog_due(self.redo_bytes, touched);
        if due && self.changelog_left.is_empty() {
            match self.begin_changelog(log, now) {
                // It begins with a later append: what was decided does not wait for that.
                Err(ReadError::Io(_)) => {}
                begun => begun?,
            }
        }
        let to = self.spec.at(self.spec.topics.changelog);
        let mut bytes = 0;
        while bytes < CHANGELOG_APPEND_BYTES
            && let Some(batch) = self.changelog_left.pop_front()
        {
            bytes += batch.bytes().len();
            batches.push((to, batch));
        }
        Ok(())
    }

    /// Takes everything touched, as it is now, for the changelog.
    fn begin_changelog(&mut self, log: &dyn Log, now: i64) -> Result<(), ReadError> {
        // The redo record of the append under way is behind this mark and already in the state: the
        // processor leaves out what it has.
        let redo = log
            .bounds(self.spec.at(self.spec.topics.redo), View::Latest)?
            .end;
        let left = &mut self.changelog_left;
        let mut batch = BatchBuilder::new();
        self.processor.drain_touched(&mut |key, value| {
            batch.push(now, Some(key), value, &[]);
            if batch.len() >= CHANGELOG_BATCH_BYTES {
                left.extend(std::mem::take(&mut batch).finish());
            }
        });
        batch.push(now, Some(REDO_MARK), Some(&redo.to_be_bytes()), &[]);
        left.extend(batch.finish());
        self.redo_bytes = 0;
        Ok(())
    }

    /// Writes the next piece of a round of the changelog, when there is nothing else to do.
    fn write_on_changelog(&mut self, around: &mut Surroundings<'_>) -> Stepped {
        if self.changelog_left.is_empty() {
            return Stepped::Idle;
        }
        let mut batches = Vec::new();
        let now = around.log.now();
        if let Err(error) = self.put_changelog(around.log.as_ref(), now, &mut batches) {
            return self.stop_for(&error.into());
        }
        let append = Append {
            purpose: Purpose::Decision,
            batches,
            consumed: Vec::new(),
            on_end: Some(around.in_flight.begin(|_| ())),
        };
        if let Err(error) = around.log.append(&self.token, append) {
            around.in_flight.refused();
            return self.stop_for(&error.into());
        }
        Stepped::Moved
    }
}

/// Whether a round of the changelog is worth it, after so many bytes of redo that touched so many.
pub(crate) fn is_changelog_due(redo_bytes: usize, touched: usize) -> bool {
    redo_bytes >= REDO_BYTES_MIN && redo_bytes >= touched.saturating_mul(REDO_PER_CHANGELOG)
}

#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The key of a submitted record: this process's mark and the ticket's number.
pub(crate) fn ticket_key(instance: u32, number: u64) -> [u8; 12] {
    let mut key = [0; 12];
    let (mark, rest) = key.split_at_mut(4);
    mark.copy_from_slice(&instance.to_be_bytes());
    rest.copy_from_slice(&number.to_be_bytes());
    key
}

fn own_ticket(key: Option<&[u8]>, instance: u32) -> Option<u64> {
    let (mark, rest) = key?.split_first_chunk::<4>()?;
    if *mark != instance.to_be_bytes() {
        return None;
    }
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

/// Runs what puts records back; a panic in it is a state that does not fit.
pub(crate) fn guarded<R>(
    spec: &TaskSpec,
    restore: impl FnOnce() -> Result<R, RestoreError>,
) -> Result<R, RestoreError> {
    catch_unwind(AssertUnwindSafe(restore)).unwrap_or_else(|panic| {
        let text = panic_text(panic.as_ref());
        Err(spec.unfit(format!("restoring it panicked: {text}")))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}
