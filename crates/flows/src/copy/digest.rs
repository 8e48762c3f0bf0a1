//! One digest of all that a log holds, the same for a log and its copy.
//!
//! SHA-256 over every record of a partition in order: time, key, value, headers, each with its length.
//! What names an offset is taken with the index of the record in its partition instead, so that two
//! engines that give other offsets to the same records have the same digest. The digest of a log is that
//! of its topics' names and shapes, its partitions' digests, and its owners' positions, as indices too.

use std::fmt::Write as _;

use onhand_log::Record;
use sha2::{Digest as _, Sha256};

/// Of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartitionDigest {
    pub(super) records: u64,
    pub(super) sum: [u8; 32],
}

/// Of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TopicDigest {
    pub(super) name: String,
    pub(super) compacted: bool,
    pub(super) partitions: Vec<PartitionDigest>,
}

/// How far an owner got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PositionDigest {
    pub(super) owner: String,
    pub(super) topic: String,
    pub(super) partition: u16,
    /// The record that it takes next.
    pub(super) index: Option<i64>,
}

/// What a log holds, in figures that do not depend on its engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogDigest {
    pub(super) topics: Vec<TopicDigest>,
    pub(super) positions: Vec<PositionDigest>,
}

impl LogDigest {
    /// All of it in 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        let mut all = Sha256::new();
        let mut text = |text: &str| {
            all.update(length(text.len()));
            all.update(text);
        };
        for topic in &self.topics {
            text(&topic.name);
            text(if topic.compacted {
                "compacted"
            } else {
                "plain"
            });
            for partition in &topic.partitions {
                text(&format!("{} {}", partition.records, hex(&partition.sum)));
            }
        }
        for position in &self.positions {
            let index = position.index.map(|index| index.to_string());
            text(&position.owner);
            text(&position.topic);
            text(&position.partition.to_string());
            text(index.as_deref().unwrap_or("none"));
        }
        let sum: [u8; 32] = all.finalize().into();
        hex(&sum)
    }

    /// Records of all topics.
    pub fn records(&self) -> u64 {
        self.by_topic().map(|(_, records)| records).sum()
    }

    /// Records by topic.
    pub fn by_topic(&self) -> impl Iterator<Item = (&str, u64)> {
        self.topics.iter().map(|topic| {
            let records = topic.partitions.iter().map(|partition| partition.records);
            (topic.name.as_str(), records.sum())
        })
    }

    /// How many owners' positions there are.
    pub fn positions(&self) -> usize {
        let known = self.positions.iter().filter(|p| p.index.is_some());
        known.count()
    }

    /// Records of that partition; 0 where it is not.
    pub(super) fn records_of(&self, topic: &str, partition: u16) -> u64 {
        let topic = self.topics.iter().find(|known| known.name == topic);
        let found = topic.and_then(|topic| topic.partitions.get(usize::from(partition)));
        found.map_or(0, |partition| partition.records)
    }
}

/// Sums up the records of one partition.
#[derive(Default, Debug)]
pub(super) struct PartitionSum {
    records: u64,
    sum: Sha256,
}

impl PartitionSum {
    /// Takes the next record, in which offsets are indices already.
    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        each_part(record, &mut |bytes| self.sum.update(bytes));
    }

    pub(super) fn finish(self) -> PartitionDigest {
        PartitionDigest {
            records: self.records,
            sum: self.sum.finalize().into(),
        }
    }
}

/// The bytes that stand for a record.
pub(super) fn each_part(record: &Record<'_>, each: &mut dyn FnMut(&[u8])) {
    each(&record.timestamp.to_be_bytes());
    let mut part = |bytes: Option<&[u8]>| match bytes {
        None => each(&[0]),
        Some(bytes) => {
            each(&[1]);
            each(&length(bytes.len()));
            each(bytes);
        }
    };
    part(record.key);
    part(record.value);
    for header in &record.headers {
        part(Some(header.key.as_bytes()));
        part(header.value);
    }
    each(&length(record.headers.len()));
}

fn length(bytes: usize) -> [u8; 8] {
    (bytes as u64).to_be_bytes()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
