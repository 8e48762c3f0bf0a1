//! Copying a log at rest into another, on whatever engine: `onhand log copy`.
//!
//! ```text
//!  source ─► each record: digest ─► offsets expressed anew ─► target      fill
//!  target, opened anew ─► each record: digest                             read_back
//!  equal? ─► the source is sealed ─► the target may be served             (the caller)
//! ```
//!
//! Records keep topic, partition, order, key, value, headers and time. Where a value names an offset of
//! its own log it names that of the same record in the target (`values`). Whoever reads positions of
//! ours, which count decisions, notices nothing: the target has the source's epoch.
//!
//! **Progress** is what the target holds: of each partition the first records of the source's, since
//! every append is whole or not there. So a copy that was ended anyhow, at any point, goes on by counting
//! and has nothing twice.
//!
//! **What is not judged**: whether the source is sound (`onhand verify` does that), and what others keep
//! outside of the log.
//!
//! Modules in reading order: `offsets`, `values`, `digest`, `read` (one side of a copy), `fill`.

mod digest;
mod fill;
mod offsets;
mod read;
mod values;

use std::fmt;

use onhand_log::{AppendError, Ending, Offset, ReadError, TopicError};
use thiserror::Error;

pub use digest::LogDigest;
pub use fill::{Extent, Filled, fill, take_names};
pub use read::{difference, holds_more, read_back};

/// How far a copy, or its comparison, is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress<'t> {
    /// The topic at hand.
    pub topic: &'t str,
    /// Offsets of all topics passed so far, of `total`.
    pub done: u64,
    /// Offsets of all topics; on Kafka a little more than there are records.
    pub total: u64,
    /// Records of this topic so far.
    pub records: u64,
    /// Of them those that were in the target already.
    pub found: u64,
    /// Bytes of the keys and values of this topic's records so far.
    pub bytes: u64,
}

/// Why a copy did not come to its end. Nothing is lost by any of these: the source is as it was.
#[derive(Debug, Error)]
pub enum CopyError {
    /// One of the two could not be read.
    #[error("{which} cannot be read: {error}")]
    Read {
        /// Which of the two.
        which: Which,
        /// What the log said.
        error: ReadError,
    },
    /// A topic could not be made in the target.
    #[error("topic {topic} cannot be made in the target: {error}")]
    Topic {
        /// Its name.
        topic: String,
        /// What the log said.
        error: TopicError,
    },
    /// The target takes nothing.
    #[error("the target cannot be written: {0}; run the same command again, it goes on from here")]
    Write(#[from] AppendError),
    /// A record of the source is larger than the target takes.
    #[error(
        "the record at offset {offset} of partition {partition} of {topic} makes an append of {bytes} \
         B, and the target takes {limit} B at most: a log that holds it cannot be copied there. Where \
         nobody needs it any more, delete all before offset {next} of that partition in the source \
         (on Kafka: kafka-delete-records.sh) and begin again with an empty target"
    )]
    TooLarge {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// The record, in the source.
        offset: Offset,
        /// The offset behind it.
        next: Offset,
        /// What an append of it takes.
        bytes: usize,
        /// The most that the target takes.
        limit: usize,
    },
    /// The source could not be held still.
    #[error("the source cannot be claimed: {0}; run the same command again")]
    Hold(AppendError),
    /// An append to the target did not end well.
    #[error(
        "an append to the target ended {0:?}; run the same command again, it goes on from what is there"
    )]
    Ended(Ending),
    /// An append to the target did not end at all.
    #[error(
        "the target was silent for {0} s; look at its brokers or its disk, then run this again"
    )]
    Silent(u64),
    /// What names an offset cannot be read.
    #[error("the record at offset {offset} of partition {partition} of {topic}: {what}")]
    Value {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// The record, in its own log.
        offset: Offset,
        /// What does not fit.
        what: String,
    },
    /// The target has records that the source has not.
    #[error(
        "partition {partition} of {topic} holds {held} records in the target and {records} in the \
         source: somebody else wrote there, or the source lost some; begin with an empty target"
    )]
    TooMuch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// Records of the target.
        held: i64,
        /// Records of the source.
        records: i64,
    },
}

/// One of the two logs of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The one that is copied.
    Source,
    /// The one that becomes the copy.
    Target,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "the source",
            Self::Target => "the target",
        })
    }
}
