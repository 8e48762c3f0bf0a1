//! One side of a copy: its topics in the order in which they are copied, its records, its offsets.

use std::collections::BTreeMap;

use onhand_log::{Bounds, Log, Offset, Record, Topic, TopicPartition, View};
use xxhash_rust::xxh3::Xxh3;

use super::digest::{
    LogDigest, PartitionDigest, PartitionSum, PositionDigest, TopicDigest, each_part,
};
use super::offsets::Offsets;
use super::values::{self, holds_offsets};
use super::{CopyError, Progress, Which};
use crate::{node, topics};

/// How much is read at once.
const READ_BYTES: usize = 4 << 20;

/// One log of a copy.
pub(super) struct Side<'l> {
    pub(super) log: &'l dyn Log,
    which: Which,
    /// Those that others name offsets of come before them.
    pub(super) topics: Vec<Topic>,
    /// By topic and partition; only of topics that others name offsets of.
    offsets: BTreeMap<String, Vec<Offsets>>,
}

/// What must be read before what names its offsets.
fn rank(topic: &str) -> u8 {
    match topic {
        topics::COMMANDS => 0,
        topics::DECISIONS => 2,
        topics::STATE => 3,
        topics::DEAD_LETTERS => 4,
        _ => 1,
    }
}

impl<'l> Side<'l> {
    pub(super) fn new(log: &'l dyn Log, which: Which) -> Result<Self, CopyError> {
        let mut side = Self {
            log,
            which,
            topics: Vec::new(),
            offsets: BTreeMap::new(),
        };
        side.learn_topics()?;
        Ok(side)
    }

    /// Takes over the topics that the log has now.
    pub(super) fn learn_topics(&mut self) -> Result<(), CopyError> {
        self.topics = self.log.topics();
        let key = |topic: &Topic| (rank(&topic.spec.name), topic.spec.name.clone());
        self.topics.sort_by_key(key);
        for topic in &self.topics {
            let name = &topic.spec.name;
            if matches!(name.as_str(), topics::STATE | topics::DEAD_LETTERS) {
                continue;
            }
            let mut all = Vec::with_capacity(usize::from(topic.spec.partitions));
            for at in partitions(topic) {
                all.push(Offsets::new(self.bounds(at)?));
            }
            self.offsets.insert(name.clone(), all);
        }
        Ok(())
    }

    pub(super) fn offsets(&self, topic: &str, partition: u16) -> Option<&Offsets> {
        self.offsets.get(topic)?.get(usize::from(partition))
    }

    /// Takes the offsets of a partition out, to add to them while it is read; see [`Side::put_back`].
    pub(super) fn take(&mut self, topic: &str, partition: u16) -> Option<Offsets> {
        let place = self.place(topic, partition)?;
        let nothing = Offsets::new(Bounds { start: 0, end: 0 });
        Some(std::mem::replace(place, nothing))
    }

    pub(super) fn put_back(&mut self, topic: &str, partition: u16, offsets: Option<Offsets>) {
        if let (Some(place), Some(offsets)) = (self.place(topic, partition), offsets) {
            *place = offsets;
        }
    }

    fn place(&mut self, topic: &str, partition: u16) -> Option<&mut Offsets> {
        self.offsets.get_mut(topic)?.get_mut(usize::from(partition))
    }

    pub(super) fn bounds(&self, at: TopicPartition) -> Result<Bounds, CopyError> {
        self.log
            .bounds(at, View::Durable)
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: onhand_log::ReadError) -> CopyError {
        CopyError::Read {
            which: self.which,
            error,
        }
    }

    /// Gives every record from `from` on to the durable end as it is now.
    pub(super) fn each(
        &self,
        at: TopicPartition,
        from: Offset,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let bounds = self.bounds(at)?;
        let mut next = from.max(bounds.start);
        while next < bounds.end {
            let fetch = self
                .log
                .read(at, next, READ_BYTES, View::Durable)
                .map_err(|error| self.failed(error))?;
            for batch in &fetch.batches {
                let records = batch.records();
                for record in records.filter(|r| (next..bounds.end).contains(&r.offset)) {
                    each(&record)?;
                }
            }
            if fetch.next <= next {
                break;
            }
            next = fetch.next;
        }
        Ok(())
    }

    /// The record with indices in place of offsets, given to `then`.
    pub(super) fn plain<R>(
        &self,
        topic: &str,
        partition: u16,
        record: &Record<'_>,
        then: impl FnOnce(&Record<'_>) -> R,
    ) -> Result<R, CopyError> {
        let to = |topic: &str, partition: u16, offset: Offset| {
            let offsets = self.offsets(topic, partition)?;
            Some(offsets.index_of(offset))
        };
        translated(topic, partition, record, &to, then)
    }

    /// How far every owner got.
    pub(super) fn positions(&self) -> Result<Vec<PositionDigest>, CopyError> {
        let name_of = |at: TopicPartition| {
            let topic = self.topics.iter().find(|topic| topic.id == at.topic);
            topic.map_or_else(String::new, |topic| topic.spec.name.clone())
        };
        let owners = node::owners(&self.topics).into_iter();
        owners
            .map(|(owner, at)| {
                let topic = name_of(at);
                let next = self.consumed(&owner, at)?;
                let offsets = self.offsets(&topic, at.partition);
                Ok(PositionDigest {
                    index: next.and_then(|next| Some(offsets?.index_of(next))),
                    owner,
                    topic,
                    partition: at.partition,
                })
            })
            .collect()
    }

    /// Where that owner goes on.
    pub(super) fn consumed(
        &self,
        owner: &str,
        at: TopicPartition,
    ) -> Result<Option<Offset>, CopyError> {
        let found = self.log.consumed(owner, at);
        found.map_err(|error| self.failed(error))
    }

    /// Offsets of all topics, as they are now.
    pub(super) fn span(&self) -> Result<u64, CopyError> {
        let mut span = 0;
        for at in self.topics.iter().flat_map(partitions) {
            let bounds = self.bounds(at)?;
            span += bounds.end.abs_diff(bounds.start);
        }
        Ok(span)
    }
}

pub(super) fn partitions(topic: &Topic) -> impl Iterator<Item = TopicPartition> + use<> {
    let id = topic.id;
    (0..topic.spec.partitions).map(move |partition| TopicPartition {
        topic: id,
        partition,
    })
}

/// The record with its offsets translated, given to `then`.
pub(super) fn translated<R>(
    topic: &str,
    partition: u16,
    record: &Record<'_>,
    to: values::Translate<'_>,
    then: impl FnOnce(&Record<'_>) -> R,
) -> Result<R, CopyError> {
    if !holds_offsets(topic) {
        return Ok(then(record));
    }
    let changed = values::translate(topic, partition, record, to);
    let changed = changed.map_err(|what| CopyError::Value {
        topic: topic.to_owned(),
        partition,
        offset: record.offset,
        what,
    })?;
    Ok(match changed {
        None => then(record),
        Some(changed) => changed.with(record, then),
    })
}

/// The digest of all that a log holds. It should have been opened for this, so that what was written
/// into it is read from where it is stored.
///
/// # Errors
/// [`CopyError`] when it cannot be read.
pub fn read_back(
    log: &dyn Log,
    told: &mut dyn FnMut(Progress<'_>),
) -> Result<LogDigest, CopyError> {
    let mut side = Side::new(log, Which::Target)?;
    let digest = sum_up(&mut side, None, told)?;
    Ok(LogDigest {
        positions: side.positions()?,
        ..digest
    })
}

/// Whether `target`, a finished copy of `source` that may have been served since, still begins with all
/// that `source` holds. Compacted topics are left out: what they have dropped is as it should be.
/// Says how many records the target has beyond the source; `None` when they are not one history.
///
/// # Errors
/// [`CopyError`] when one of them cannot be read.
pub fn holds_more(
    source: &dyn Log,
    target: &dyn Log,
    told: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<u64>, CopyError> {
    let mut all = Side::new(source, Which::Source)?;
    let mut wanted = sum_up(&mut all, None, told)?;
    let mut copy = Side::new(target, Which::Target)?;
    let mut found = sum_up(&mut copy, Some(&wanted), told)?;
    for digest in [&mut wanted, &mut found] {
        digest.topics.retain(|topic| !topic.compacted);
    }
    // A node may have made topics since that the source never had.
    let known = |topic: &TopicDigest| wanted.topics.iter().any(|w| w.name == topic.name);
    found.topics.retain(known);
    if wanted != found {
        return Ok(None);
    }
    let mut more = 0;
    for topic in copy.topics.iter().filter(|topic| !topic.spec.compacted) {
        for at in partitions(topic) {
            let mut held = 0_u64;
            copy.each(at, Offset::MIN, &mut |_| {
                held += 1;
                Ok(())
            })?;
            more += held.saturating_sub(wanted.records_of(&topic.spec.name, at.partition));
        }
    }
    Ok(Some(more))
}

/// Reads a log whole, or of each partition as many records as `limits` has.
fn sum_up(
    side: &mut Side<'_>,
    limits: Option<&LogDigest>,
    told: &mut dyn FnMut(Progress<'_>),
) -> Result<LogDigest, CopyError> {
    let mut digest = LogDigest::default();
    let (total, mut done) = (side.span()?, 0);
    for topic in side.topics.clone() {
        let name = topic.spec.name.as_str();
        let (mut records, mut bytes) = (0, 0);
        let mut sums = Vec::with_capacity(usize::from(topic.spec.partitions));
        for at in partitions(&topic) {
            let bounds = side.bounds(at)?;
            let most = limits.map_or(u64::MAX, |limits| limits.records_of(name, at.partition));
            let mut sum = PartitionSum::default();
            let mut taken = 0;
            // Others name offsets of this topic only behind it.
            let mut own = side.take(name, at.partition);
            side.each(at, bounds.start, &mut |record| {
                if taken >= most {
                    return Ok(());
                }
                taken += 1;
                records += 1;
                bytes += size(record);
                if let Some(own) = &mut own {
                    own.push(record.offset);
                }
                side.plain(name, at.partition, record, |plain| sum.add(plain))?;
                if records % PROGRESS_EVERY == 0 {
                    told(Progress {
                        topic: name,
                        done: done + record.offset.abs_diff(bounds.start),
                        total,
                        records,
                        found: 0,
                        bytes,
                    });
                }
                Ok(())
            })?;
            side.put_back(name, at.partition, own);
            done += bounds.end.abs_diff(bounds.start);
            sums.push(sum.finish());
        }
        told(Progress {
            topic: name,
            done,
            total,
            records,
            found: 0,
            bytes,
        });
        digest.topics.push(TopicDigest {
            name: topic.spec.name.clone(),
            compacted: topic.spec.compacted,
            partitions: sums,
        });
    }
    Ok(digest)
}

/// Records between two reports.
pub(super) const PROGRESS_EVERY: u64 = 256;

/// Bytes of a record's key and value.
pub(super) fn size(record: &Record<'_>) -> u64 {
    let length = |part: Option<&[u8]>| part.map_or(0, |part| part.len() as u64);
    length(record.key) + length(record.value)
}

/// Where two logs differ first, in words; `None` when their digests say that they do not.
///
/// # Errors
/// [`CopyError`] when one of them cannot be read.
pub fn difference(
    source: (&dyn Log, &LogDigest),
    target: (&dyn Log, &LogDigest),
) -> Result<Option<String>, CopyError> {
    let (wanted, found) = (source.1, target.1);
    let names = |digest: &LogDigest| -> Vec<String> {
        digest.topics.iter().map(|t| t.name.clone()).collect()
    };
    if names(wanted) != names(found) {
        return Ok(Some(format!(
            "the source has the topics {}, the target {}",
            names(wanted).join(", "),
            names(found).join(", ")
        )));
    }
    for (ours, theirs) in wanted.topics.iter().zip(&found.topics) {
        let pairs = ours.partitions.iter().zip(&theirs.partitions);
        let differs = pairs.zip(0_u16..).find(|((a, b), _)| a != b);
        if let Some(((a, b), partition)) = differs {
            let place = first_record(source.0, target.0, &ours.name, partition, (*a, *b))?;
            return Ok(Some(format!(
                "partition {partition} of {}: {place}",
                ours.name
            )));
        }
        if ours.partitions.len() != theirs.partitions.len() {
            return Ok(Some(format!("{} has other partitions", ours.name)));
        }
    }
    let positions = wanted.positions.iter().zip(&found.positions);
    for (ours, theirs) in positions {
        if ours != theirs {
            return Ok(Some(format!(
                "{} goes on at record {:?} of partition {} of {} in the source, at {:?} in the target",
                ours.owner, ours.index, ours.partition, ours.topic, theirs.index
            )));
        }
    }
    Ok((wanted != found).then(|| "they have other owners".to_owned()))
}

fn first_record(
    source: &dyn Log,
    target: &dyn Log,
    topic: &str,
    partition: u16,
    digests: (PartitionDigest, PartitionDigest),
) -> Result<String, CopyError> {
    let sums = |log, which| -> Result<Vec<(Offset, u64)>, CopyError> {
        let mut side = Side::new(log, which)?;
        let mut sums = Vec::new();
        for known in side.topics.clone() {
            let name = known.spec.name.as_str();
            for at in partitions(&known) {
                let wanted = name == topic && at.partition == partition;
                let mut own = side.take(name, at.partition);
                side.each(at, Offset::MIN, &mut |record| {
                    if let Some(own) = &mut own {
                        own.push(record.offset);
                    }
                    if wanted {
                        let sum = side.plain(name, partition, record, |plain| {
                            let mut sum = Xxh3::new();
                            each_part(plain, &mut |bytes| sum.update(bytes));
                            sum.digest()
                        })?;
                        sums.push((record.offset, sum));
                    }
                    Ok(())
                })?;
                side.put_back(name, at.partition, own);
                if wanted {
                    return Ok(sums);
                }
            }
        }
        Ok(sums)
    };
    let (ours, theirs) = (sums(source, Which::Source)?, sums(target, Which::Target)?);
    let pairs = ours.iter().zip(&theirs).zip(0_u64..);
    for (((at, a), (there, b)), index) in pairs {
        if a != b {
            return Ok(format!(
                "record {index} (offset {at} in the source, {there} in the target) is another one"
            ));
        }
    }
    let (ours, theirs) = (digests.0.records, digests.1.records);
    Ok(format!(
        "{ours} records in the source, {theirs} in the target"
    ))
}
