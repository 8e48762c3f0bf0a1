//! The log: where everything that happened is written, in order, and read back.
//!
//! A [`Log`] holds topics of partitions of records. A caller hands it an [`Append`]: records for
//! any number of topics and partitions together with the input positions they consumed, valid
//! whole or not at all. What an engine promises stands at the trait's methods and is checked, for
//! every engine alike, by [`testing::contract`].
//!
//! ```text
//!  append ─► [ group: one write, one sync ] ─► durable ─► Append::on_end, listeners, View::Durable
//!     └────────► View::Latest (work inside the process may run ahead of the sync)
//! ```
//!
//! This crate knows nothing of stock and never looks into a value.
//!
//! Modules in reading order: [`record`] (Kafka record batches v2), [`memory`] (a log for tests that
//! can inject every ending), [`journal`] (the embedded journal), [`cluster`] (who owns what when several
//! instances share a log), [`standing`] (copied logs and sealed ones), [`testing`] (the contract suite).

#![warn(missing_docs)]

mod catalog;
pub mod clock;
pub mod cluster;
pub mod journal;
mod limits;
pub mod memory;
pub mod record;
pub mod standing;
pub mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use limits::{TOPICS_MAX, check_owner};
pub use record::{BatchBuilder, BatchError, Header, Record, RecordBatch};
pub use standing::{Counterpart, Fill, Glimpse, Opening, Standing, StandingError};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Timestamp = i64;

/// A record's place in its partition. Offsets only rise; they are not dense on every engine.
pub type Offset = i64;

/// The number by which a log names one of its topics. Stable for the life of the log's epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(pub u16);

/// One partition of one topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic's number in this log.
    pub topic: TopicId,
    /// From 0 to below [`TopicSpec::partitions`].
    pub partition: u16,
}

/// What a topic is created with. It never changes in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSpec {
    /// 1 to 249 bytes of `[a-zA-Z0-9._-]`, as Kafka's topic names.
    pub name: String,
    /// 1 to 1,024.
    pub partitions: u16,
    /// Whether the newest record of each key is enough (`cleanup.policy=compact`). An engine may then drop
    /// what a newer record of the same key stands behind, once that one is older than [`COMPACTION_LAG`].
    pub compacted: bool,
}

/// For so long a record takes no older one of its key away: 7 days, by its own time.
pub const COMPACTION_LAG: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A topic as the log holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// The number by which appends and reads name it.
    pub id: TopicId,
    /// As it was created.
    pub spec: TopicSpec,
}

/// Proof that the holder owns a name (a task's, an intake's). A later [`Log::claim`] of the same
/// name fences it: nothing appended under the older token takes effect any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// The name owned.
    pub owner: Arc<str>,
    /// Rises with every claim of the name; only the highest may append.
    pub generation: u64,
}

/// An input position that an append consumed: everything before `next` has had its effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consumed {
    /// The partition that was read.
    pub at: TopicPartition,
    /// The first offset that was not consumed.
    pub next: Offset,
}

/// What an append is to the work that is under way: whether it may use the space kept back for finishing
/// what was begun, and whether it may wait until that is finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// New work. Refused with [`AppendError::NoSpace`] while only the reserved space is left. May wait
    /// for other work to end.
    Intake,
    /// Decisions on what was already taken in. May use the reserved space.
    Decision,
    /// What others read of decisions. Refused as new work is, but follows from what was begun.
    View,
}

/// How an append ended. Every append that [`Log::append`] accepted ends in exactly one of these.
///
/// Once one has ended in anything but [`Ending::Durable`], what was or is appended behind it under the
/// same token is not written either, and ends [`Ending::Aborted`] at best: it rests on what is not
/// there. A new [`Log::claim`] ends that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// It is in the log and survives what the engine's durability setting says.
    Durable,
    /// Somebody else owns the name; nothing was written and nothing ever will be under this token.
    Fenced,
    /// Certainly not written. The same content may be appended again.
    Aborted,
    /// Written or not: the owner must claim again and read what is committed before it goes on.
    Unknown,
}

/// Called once with how the append ended, under one token in the order of the appends, on a thread
/// of the engine or on one that is inside [`Log::flush`] or [`Log::close`]: it must be short, must not call back into
/// the log, and must not take a lock that a caller of those two holds.
pub type OnEnd = Box<dyn FnOnce(Ending) + Send>;

/// One atomic write: all of it or none of it.
pub struct Append {
    /// Which space it may use when little is left.
    pub purpose: Purpose,
    /// Batches in the order in which they enter their partitions. Base offsets are assigned by the
    /// log. Two batches for the same partition keep their order.
    pub batches: Vec<(TopicPartition, RecordBatch)>,
    /// Input positions of the token's owner that this append consumed.
    pub consumed: Vec<Consumed>,
    /// Told how it ended; `None` if nobody needs to know.
    pub on_end: Option<OnEnd>,
}

impl fmt::Debug for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append")
            .field("purpose", &self.purpose)
            .field("batches", &self.batches.len())
            .field("consumed", &self.consumed)
            .finish_non_exhaustive()
    }
}

/// How far a reader sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Only what is durable. For everything that leaves the process.
    Durable,
    /// What has been appended, in order, though it may not be durable yet. For work inside the
    /// process whose own output is appended behind what it read. On Kafka: what this instance appended
    /// itself, once the brokers hold it and all before it is decided; of others only what is durable.
    ///
    /// What it showed may be taken back, when its append ends in anything but [`Ending::Durable`]. Then
    /// no append of any owner who could have read it is written either, until that owner claims again.
    Latest,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Whole batches. The first may begin before the offset asked for: skip its earlier records.
    pub batches: Vec<RecordBatch>,
    /// Where to read on. Equal to the offset asked for when nothing new was there.
    pub next: Offset,
}

/// The offsets that a partition holds: `start..end`, `end` being the next to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The first offset still held.
    pub start: Offset,
    /// The next offset to be written, as far as the view shows; `start` where nothing is held.
    pub end: Offset,
}

/// What moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Something was appended ([`View::Latest`] shows more).
    Appended,
    /// The durable position moved ([`View::Durable`] shows more).
    Durable,
    /// The log accepts nothing more: it was closed, or poisoned by a failed write or sync.
    Stopped,
}

/// Called on every progress, on a thread of the engine or of the appender: it must be short and
/// must not call back into the log.
pub type Listener = Box<dyn Fn(Progress) + Send + Sync>;

/// What the log occupies and did, for metrics.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Bytes of records held, all topics together.
    pub bytes: u64,
    /// Bytes that the log occupies where it is stored, preallocated space included.
    pub disk_bytes: u64,
    /// Appends accepted since the log was opened.
    pub appends: u64,
    /// Groups written and synced, each with one sync.
    pub syncs: u64,
    /// Appends whose ending is not known yet.
    pub pending: u64,
    /// True while new work is refused for want of space.
    pub out_of_space: bool,
    /// How many milliseconds the wall clock is ahead of [`Log::now`] while that is above a minute,
    /// else 0. Somebody set the clock: the log follows slowly, and an operator should look.
    pub clock_step_ms: i64,
    /// Records met in the log's own topics that this log did not write, and that are left out for it.
    /// Each counts once while it is among the first 10,000. Always 0 where nobody else can write.
    pub strangers: u64,
}

/// An ordered, partitioned, durable log with atomic appends.
///
/// All methods may be called from any thread. [`Log::close`] and [`Log::create_topic`] wait for a
/// sync; [`Log::append`] waits for room when more is pending than the engine's bound; an engine may
/// let the caller of [`Log::flush`] do a small group itself.
pub trait Log: Send + Sync + fmt::Debug {
    /// Changes when history may have been lost: a position of another epoch means nothing here.
    fn epoch(&self) -> u64;

    /// A number that no other log has, a copy of this one included. What is kept beside a log and
    /// speaks of its offsets belongs to this number; positions that survive a copy belong to
    /// [`Log::epoch`].
    fn id(&self) -> u64;

    /// Whether it is complete and served, as it was when it was opened or set since.
    fn standing(&self) -> Standing;

    /// Changes it; durable when it returns. Who opens the log from here on is held to it; who has it
    /// open is not told.
    ///
    /// # Errors
    /// When the log is stopped or cannot be reached.
    fn set_standing(&self, standing: &Standing) -> Result<(), AppendError>;

    /// The time that a record appended now would bear. It follows the wall clock but never goes
    /// back, also not across a restart.
    fn now(&self) -> Timestamp;

    /// Creates the topic, or finds it as it is. Durable when it returns.
    ///
    /// # Errors
    /// [`TopicError::Differs`] when it exists with another specification.
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError>;

    /// All topics, by id.
    fn topics(&self) -> Vec<Topic>;

    /// Takes the name. Every earlier token of that name is fenced from here on.
    ///
    /// # Errors
    /// When the log is stopped or cannot be reached.
    fn claim(&self, owner: &str) -> Result<Token, AppendError>;

    /// Gives a name up, so that whoever claims it next need not fence its holder. Call it when
    /// everything appended under the token has ended. Nothing is taken under the token any more:
    /// [`AppendError::Fenced`]. An older token than the newest changes nothing.
    ///
    /// # Errors
    /// When the log is stopped or cannot be reached.
    fn give_up(&self, token: &Token) -> Result<(), AppendError>;

    /// Queues one atomic write. The order of accepted calls under one token is the order in every
    /// partition; between tokens an engine may put [`Purpose::Intake`] behind what was accepted later.
    /// It is seen by [`View::Latest`] when this returns, or on an engine that stores it elsewhere a
    /// moment later ([`Progress::Appended`] tells), becomes durable with the group of the
    /// next [`Log::flush`] (or after a short linger), and then ends through [`Append::on_end`].
    ///
    /// # Errors
    /// Refused at once, nothing was written, `on_end` is dropped uncalled: see [`AppendError`].
    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError>;

    /// Starts making durable what has been appended so far. Waits for nothing but, on an engine
    /// that says so, the write and sync of a small group that it does on this thread.
    fn flush(&self);

    /// Reads whole batches from `from` on, at least one if there is one, about `max_bytes`.
    ///
    /// Nothing is found between the end of `view` and the end of [`View::Latest`].
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] below the start or above the end of [`View::Latest`];
    /// [`ReadError::Damaged`] when stored bytes fail their checksum.
    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError>;

    /// The first offset whose record's time is at or after `time`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Log::read`].
    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError>;

    /// What the partition holds.
    ///
    /// # Errors
    /// [`ReadError::UnknownTopic`].
    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError>;

    /// An offset above everything in that partition that anybody was told is durable before this call:
    /// whoever has read to it with [`View::Durable`] knows all of that. On an engine that others share
    /// it is asked of whoever stores the log, each time.
    ///
    /// # Errors
    /// As [`Log::bounds`]; [`ReadError::Io`] where nobody answers.
    fn told_end(&self, at: TopicPartition) -> Result<Offset, ReadError> {
        self.bounds(at, View::Durable).map(|bounds| bounds.end)
    }

    /// The newest durable or pending [`Consumed`] position of that owner, `None` before the first.
    ///
    /// # Errors
    /// [`ReadError::Io`] when it cannot be read now: that is not the same as none.
    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError>;

    /// Adds a listener for the life of the log. Bounded by the caller: a handful per process.
    fn listen(&self, listener: Listener);

    /// Figures as they stand now.
    fn stats(&self) -> Stats;

    /// Finishes what is queued, makes it durable, marks the end as clean, and stops. Later appends
    /// are refused with [`AppendError::Stopped`].
    ///
    /// # Errors
    /// When the last write or sync failed.
    fn close(&self) -> Result<(), AppendError>;
}

/// Why an append was refused at once.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AppendError {
    /// It was closed, or a write or sync failed; says which. Nothing more is accepted until it is
    /// opened anew.
    #[error("the log is stopped: {0}; restart the node and read the log's own message")]
    Stopped(String),
    /// The token is not that of the newest claim.
    #[error("{owner} is owned by somebody else now; claim it again to go on")]
    Fenced {
        /// The name that the token is for.
        owner: Arc<str>,
    },
    /// Larger than the log takes: an append, an owner's name, or topics and owners together.
    #[error("an append of {bytes} B is above the limit of {limit} B; split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// No room is left where it is stored: for new work while only the reserved space remains, for
    /// the rest once that is used up too.
    #[error("no space left for new work; free disk space, what was begun can still be finished")]
    NoSpace,
    /// The topic does not exist, or has fewer partitions.
    #[error("{0:?} is not a partition of this log; create the topic first")]
    UnknownTopic(TopicPartition),
    /// Whoever stores the log does not answer, or refuses for now; says who and why. The same call
    /// may succeed later.
    #[error("the log cannot be reached: {0}; it is worth trying again")]
    Unreachable(String),
}

/// Why a read found nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// The partition does not hold that offset: it was released, or was never written.
    #[error("offset {asked} is outside {start}..{end}; read from {start}")]
    OutOfRange {
        /// The offset to read from.
        asked: Offset,
        /// The first offset held.
        start: Offset,
        /// The next offset to be written.
        end: Offset,
    },
    /// The topic does not exist, or has fewer partitions.
    #[error("{0:?} is not a partition of this log")]
    UnknownTopic(TopicPartition),
    /// What is stored is not what was written.
    #[error("stored bytes are damaged at {place}: {what}; run `onhand log verify`")]
    Damaged {
        /// Where it is stored: segment and byte.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The operating system failed to read; its own words.
    #[error("the log cannot be read: {0}")]
    Io(String),
}

/// Why a topic could not be created.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TopicError {
    /// It exists with another number of partitions or another clean-up, and a topic never changes.
    #[error("topic {name} exists with {existing} and was asked for with {asked}")]
    Differs {
        /// The topic's name.
        name: String,
        /// How it exists, in words.
        existing: String,
        /// How it was asked for, in words.
        asked: String,
    },
    /// This name is empty, too long, or has other characters.
    #[error("{0:?} is no topic name: use 1 to 249 of [a-zA-Z0-9._-]")]
    Name(String),
    /// The number of partitions asked for.
    #[error("a topic has 1 to 1024 partitions, not {0}")]
    Partitions(u16),
    /// One more than a log holds.
    #[error("the log has {limit} topics, and holds no more; use one of them")]
    TooMany {
        /// The most topics that a log holds.
        limit: usize,
    },
    /// It exists as asked for, but others made it so that it could lose data; says how to mend it.
    #[error("{0}")]
    Unsafe(String),
    /// The log did not take the creation.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// The partition of a key: murmur2 with its sign bit cleared, modulo the partition count, as Kafka's
/// own default partitioner (`org.apache.kafka.common.utils.Utils.murmur2`).
///
/// # Panics
/// When `partitions` is 0.
pub fn partition_of(key: &[u8], partitions: u16) -> u16 {
    let positive = murmur2(key) & 0x7fff_ffff;
    u16::try_from(positive % u32::from(partitions)).expect("a remainder by a u16 fits a u16")
}

/// Austin Appleby's MurmurHash2, 32 bit, with Kafka's seed.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Java's lengths have 32 bits; keys are far shorter.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four bytes"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own test of its hash (`UtilsTest.testMurmur2`).
    #[test]
    fn keys_hash_as_kafka_hashes_them() {
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key).cast_signed(), hash, "{key:?}");
        }
    }

    #[test]
    fn every_partition_is_in_range() {
        for partitions in [1, 2, 16, 1024] {
            for key in 0..1_000_u32 {
                assert!(partition_of(&key.to_be_bytes(), partitions) < partitions);
            }
        }
    }
}
