//! Writing what the source holds into the target.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use onhand_log::{
    Append, AppendError, BatchBuilder, Consumed, Ending, Log, Offset, Purpose, Record, Token,
    Topic, TopicPartition,
};

use super::digest::{LogDigest, PartitionSum, TopicDigest};
use super::read::{PROGRESS_EVERY, Side, partitions, size, translated};
use super::{CopyError, Progress, Which};
use crate::node;

/// The owner that writes a copy.
const OWNER: &str = "log-copy";

/// Bytes of an append: large enough for a disk and for a transaction, small enough that what is lost by
/// an interruption is little. A larger record goes alone.
const APPEND_BYTES: usize = 1 << 20;

/// How long an append may take. Engines give up earlier.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was copied.
#[derive(Clone, Debug)]
pub struct Filled {
    /// Of the source.
    pub digest: LogDigest,
    /// Records that the target lacked.
    pub written: u64,
    /// How far the source went.
    pub extent: Extent,
}

/// How far a source goes, noted before it is read, to see later that it goes no further.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Where every partition ends.
    ends: Vec<(TopicPartition, Offset)>,
    /// Where every owner stands.
    consumed: Vec<(String, TopicPartition, Option<Offset>)>,
}

impl Extent {
    /// How far the source goes now.
    ///
    /// # Errors
    /// [`CopyError`] when it cannot be read.
    pub fn of(source: &dyn Log) -> Result<Self, CopyError> {
        Self::of_side(&Side::new(source, Which::Source)?)
    }

    fn of_side(side: &Side<'_>) -> Result<Self, CopyError> {
        let ends = side.topics.iter().flat_map(partitions);
        let ends = ends.map(|at| Ok((at, side.bounds(at)?.end)));
        let owners = node::owners(&side.topics).into_iter();
        let consumed = owners.map(|(owner, at)| {
            let next = side.consumed(&owner, at)?;
            Ok((owner, at, next))
        });
        Ok(Self {
            ends: ends.collect::<Result<_, CopyError>>()?,
            consumed: consumed.collect::<Result<_, CopyError>>()?,
        })
    }

    /// Takes every name that consumes in the source, so that whoever still serves it stops, and says
    /// whether the source is as it was. Where it is not already, nobody is disturbed.
    ///
    /// # Errors
    /// [`CopyError`] when the source cannot be read or claimed.
    pub fn hold(&self, source: &dyn Log) -> Result<bool, CopyError> {
        if !self.is_all_of(source)? {
            return Ok(false);
        }
        take_names(source)?;
        self.is_all_of(source)
    }

    /// Whether the source is as it was.
    ///
    /// # Errors
    /// [`CopyError`] when it cannot be read.
    pub fn is_all_of(&self, source: &dyn Log) -> Result<bool, CopyError> {
        let side = Side::new(source, Which::Source)?;
        for (at, end) in &self.ends {
            if side.bounds(*at)?.end != *end {
                return Ok(false);
            }
        }
        for (owner, at, next) in &self.consumed {
            if side.consumed(owner, *at)? != *next {
                return Ok(false);
            }
        }
        Ok(side.topics.iter().flat_map(partitions).count() == self.ends.len())
    }
}

/// Takes every name that consumes in the log, so that whoever had it writes nothing more under it.
///
/// # Errors
/// [`CopyError`] when a name cannot be claimed.
pub fn take_names(log: &dyn Log) -> Result<(), CopyError> {
    for (owner, _) in node::owners(&log.topics()) {
        log.claim(&owner).map_err(CopyError::Hold)?;
    }
    Ok(())
}

/// Brings the target, which is an unfinished copy of the source, to hold all that it holds, its owners'
/// positions included. May be called again after an error or an end of any kind.
///
/// # Errors
/// [`CopyError`] says what to do.
pub fn fill(
    source: &dyn Log,
    target: &dyn Log,
    told: &mut dyn FnMut(Progress<'_>),
) -> Result<Filled, CopyError> {
    let mut from = Side::new(source, Which::Source)?;
    // In the source's order, so that lists of topics keep theirs.
    for topic in source.topics() {
        let made = target.create_topic(&topic.spec);
        made.map_err(|error| CopyError::Topic {
            topic: topic.spec.name.clone(),
            error,
        })?;
    }
    let mut into = Side::new(target, Which::Target)?;
    let token = target.claim(OWNER)?;
    let mut filled = Filled {
        digest: LogDigest::default(),
        written: 0,
        extent: Extent::of_side(&from)?,
    };
    let (total, mut done) = (from.span()?, 0);
    for (topic, there) in from.topics.clone().iter().zip(into.topics.clone()) {
        let mut work = Work {
            topic,
            done,
            total,
            records: 0,
            found: 0,
            bytes: 0,
        };
        let mut writer = Writer::new(target, &token);
        let mut sums = Vec::with_capacity(usize::from(topic.spec.partitions));
        for (at, to) in partitions(topic).zip(partitions(&there)) {
            let held = note(&mut into, topic, to, Offset::MIN)?;
            let sum = copy_partition(
                &mut from,
                &into,
                (at, to),
                held,
                &mut work,
                &mut writer,
                told,
            )?;
            sums.push(sum.finish());
        }
        writer.wait()?;
        for to in partitions(&there) {
            // Where the engine put what was just written.
            if let Some(known) = into.offsets(&topic.spec.name, to.partition) {
                let behind = known.offset_of(known.count());
                note(&mut into, topic, to, behind)?;
            }
        }
        filled.written += work.records - work.found;
        done = work.done;
        told(work.progress(0));
        filled.digest.topics.push(TopicDigest {
            name: topic.spec.name.clone(),
            compacted: topic.spec.compacted,
            partitions: sums,
        });
    }
    filled.digest.positions = from.positions()?;
    move_positions(&from, &into)?;
    Ok(filled)
}

/// A topic on its way.
struct Work<'t> {
    topic: &'t Topic,
    done: u64,
    total: u64,
    records: u64,
    found: u64,
    bytes: u64,
}

impl Work<'_> {
    fn progress(&self, within: u64) -> Progress<'_> {
        Progress {
            topic: &self.topic.spec.name,
            done: self.done + within,
            total: self.total,
            records: self.records,
            found: self.found,
            bytes: self.bytes,
        }
    }
}

/// Takes note of what the target holds of a partition from `from` on; says how many records it has.
fn note(
    into: &mut Side<'_>,
    topic: &Topic,
    at: TopicPartition,
    from: Offset,
) -> Result<i64, CopyError> {
    let name = &topic.spec.name;
    let mut own = into.take(name, at.partition);
    let mut held = 0;
    into.each(at, from, &mut |record| {
        held += 1;
        if let Some(own) = &mut own {
            own.push(record.offset);
        }
        Ok(())
    })?;
    into.put_back(name, at.partition, own);
    Ok(held)
}

fn copy_partition(
    from: &mut Side<'_>,
    into: &Side<'_>,
    (at, to): (TopicPartition, TopicPartition),
    held: i64,
    work: &mut Work<'_>,
    writer: &mut Writer<'_>,
    told: &mut dyn FnMut(Progress<'_>),
) -> Result<PartitionSum, CopyError> {
    let name = work.topic.spec.name.as_str();
    let bounds = from.bounds(at)?;
    let mut sum = PartitionSum::default();
    let mut index = 0;
    let mut own = from.take(name, at.partition);
    let source = &*from;
    let there = |topic: &str, partition: u16, offset: Offset| {
        let index = source.offsets(topic, partition)?.index_of(offset);
        Some(into.offsets(topic, partition)?.offset_of(index))
    };
    source.each(at, bounds.start, &mut |record| {
        if let Some(own) = &mut own {
            own.push(record.offset);
        }
        source.plain(name, at.partition, record, |plain| sum.add(plain))?;
        if index < held {
            work.found += 1;
        } else {
            translated(name, at.partition, record, &there, |record| {
                writer.put(to, record)
            })??;
        }
        index += 1;
        work.records += 1;
        work.bytes += size(record);
        if work.records.is_multiple_of(PROGRESS_EVERY) {
            told(work.progress(record.offset.abs_diff(bounds.start)));
        }
        Ok(())
    })?;
    writer.end_batch(to)?;
    if held > index {
        return Err(CopyError::TooMuch {
            topic: name.to_owned(),
            partition: at.partition,
            held,
            records: index,
        });
    }
    work.done += bounds.end.abs_diff(bounds.start);
    from.put_back(name, at.partition, own);
    Ok(sum)
}

/// Appends records of one partition after another. What is under way is bounded by the engine.
struct Writer<'l> {
    log: &'l dyn Log,
    token: &'l Token,
    batch: BatchBuilder,
    /// Where the first record of the batch stands in the source.
    first: Offset,
    begun: u64,
    ended: u64,
    tell: Sender<Ending>,
    told: Receiver<Ending>,
}

impl<'l> Writer<'l> {
    fn new(log: &'l dyn Log, token: &'l Token) -> Self {
        let (tell, told) = channel();
        Self {
            log,
            token,
            batch: BatchBuilder::new(),
            first: 0,
            begun: 0,
            ended: 0,
            tell,
            told,
        }
    }

    fn put(&mut self, to: TopicPartition, record: &Record<'_>) -> Result<(), CopyError> {
        let more = usize::try_from(size(record)).unwrap_or(usize::MAX);
        if !self.batch.is_empty() && self.batch.len().saturating_add(more) > APPEND_BYTES {
            self.end_batch(to)?;
        }
        if self.batch.is_empty() {
            self.first = record.offset;
        }
        let (key, value) = (record.key, record.value);
        self.batch
            .push(record.timestamp, key, value, &record.headers);
        Ok(())
    }

    fn end_batch(&mut self, to: TopicPartition) -> Result<(), CopyError> {
        let Some(batch) = std::mem::take(&mut self.batch).finish() else {
            return Ok(());
        };
        let appended = self.append(self.token, vec![(to, batch)], Vec::new());
        appended.map_err(|error| self.of_record(to, error))?;
        while let Ok(ending) = self.told.try_recv() {
            self.take(ending)?;
        }
        Ok(())
    }

    /// Names the record that the target does not take. Trying again would end the same way.
    fn of_record(&self, to: TopicPartition, error: CopyError) -> CopyError {
        let CopyError::Write(AppendError::TooLarge { bytes, limit }) = error else {
            return error;
        };
        let topics = self.log.topics();
        let topic = topics.into_iter().find(|topic| topic.id == to.topic);
        CopyError::TooLarge {
            topic: topic.map_or_else(String::new, |topic| topic.spec.name),
            partition: to.partition,
            offset: self.first,
            next: self.first + 1,
            bytes,
            limit,
        }
    }

    fn append(
        &mut self,
        token: &Token,
        batches: Vec<(TopicPartition, onhand_log::RecordBatch)>,
        consumed: Vec<Consumed>,
    ) -> Result<(), CopyError> {
        let tell = self.tell.clone();
        let append = Append {
            purpose: Purpose::Intake,
            batches,
            consumed,
            // Nobody listens any more once the copy was given up.
            on_end: Some(Box::new(move |ending| {
                let _ = tell.send(ending);
            })),
        };
        self.log.append(token, append)?;
        self.begun += 1;
        Ok(())
    }

    fn take(&mut self, ending: Ending) -> Result<(), CopyError> {
        self.ended += 1;
        match ending {
            Ending::Durable => Ok(()),
            other => Err(CopyError::Ended(other)),
        }
    }

    /// Until all of it is durable.
    fn wait(&mut self) -> Result<(), CopyError> {
        self.log.flush();
        while self.ended < self.begun {
            match self.told.recv_timeout(PATIENCE) {
                Ok(ending) => self.take(ending)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(CopyError::Silent(PATIENCE.as_secs()));
                }
            }
        }
        Ok(())
    }
}

/// Gives every owner the position in the target that it has in the source.
fn move_positions(from: &Side<'_>, into: &Side<'_>) -> Result<(), CopyError> {
    let theirs = node::owners(&into.topics);
    for ((position, (owner, at)), _) in from.positions()?.iter().zip(&theirs).zip(0..) {
        debug_assert_eq!(&position.owner, owner, "both have the same topics");
        let offsets = into.offsets(&position.topic, position.partition);
        let (Some(index), Some(offsets)) = (position.index, offsets) else {
            continue;
        };
        let next = offsets.offset_of(index);
        if into.consumed(owner, *at)? == Some(next) {
            continue;
        }
        let token = into.log.claim(owner)?;
        let mut writer = Writer::new(into.log, &token);
        writer.append(&token, Vec::new(), vec![Consumed { at: *at, next }])?;
        writer.wait()?;
    }
    Ok(())
}
