//! The log on Apache Kafka.
//!
//! [`KafkaLog`] keeps the promises of [`Log`] with real brokers: one append is one transaction, the
//! positions that it consumed included, and readers see committed records only.
//!
//! ```text
//!            append ─► queue ─► writer: one transaction at a time ═══════► brokers
//!                                  │ committed                               │
//!   Append::on_end, listeners ◄────┤                                         │
//!                                  ▼                                         │
//!     read ◄── window per partition (newest records, in memory) ◄─ follower ◄┤
//!     read ◄── pool of consumers: what is older ◄────────────────────────────┤
//!    claim ──► internal topic: who holds a name ──► fence who had it ═══════►┘
//! ```
//!
//! The writer gathers: whatever was queued while the last transaction was committing goes into the
//! next one. So a transaction is a few round trips long when it is quiet and large under load.
//!
//! **What ends how.** [`Ending::Durable`](onhand_log::Ending::Durable): the commit was confirmed. Kafka
//! holds it on at least `min.insync.replicas` brokers, in their memory: the loss of one of them loses
//! nothing, a power cut of all of them may. `Fenced`: the name was claimed by another instance, and the
//! transaction was given up. `Aborted`: no commit was asked for, or it is proven not to be there.
//! `Unknown`: a commit was asked for, and neither its answer nor a broker that could say whether it is
//! there came within the setting's time. A commit without an answer is looked for before it is called
//! unknown: taking the transactional id anew decides it, and its records are visible or not.
//!
//! **What differs from the journal.** Offsets have holes, one where each transaction ended.
//! [`View::Latest`] shows the same as [`View::Durable`]. Batches read from brokers are runs of
//! consecutive records, not the batches that were appended; those that this instance keeps in memory
//! are. A record that this instance committed is visible to its own durable reads when its ending is
//! told, unless another instance has a transaction open before it in that partition: then it is when
//! that ends, at the latest after the transaction timeout. Times up to 1970 are stored one millisecond
//! early (`times`). [`Log::now`] is the wall clock of the instance, and goes on after a clean close from
//! where it was.
//!
//! **What this crate relies on.** Others may read its topics, but must not write them except through
//! transactions, and must not write `onhand.log` at all. Brokers must not create topics on their own
//! (`auto.create.topics.enable=false`): a topic that somebody deletes could come back with one copy.
//!
//! Modules in reading order: `settings`, `topics` (creating and checking them), `catalog` and `registry`
//! (the internal topic), `owner` (claims), `queue`, `writer` and `producer` (appends), `positions`
//! (consumed positions), `partition`, `follower`, `cold` and `runs` (reads).

#![warn(missing_docs)]

mod catalog;
mod client;
mod cold;
mod error;
mod follower;
mod inner;
mod open;
mod owner;
mod partition;
mod positions;
mod producer;
mod queue;
mod registry;
mod runs;
mod settings;
mod times;
mod topics;
mod writer;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use onhand_log::{
    Append, AppendError, Bounds, Fetch, Glimpse, Listener, Log, Offset, Progress, ReadError,
    Standing, Stats, Timestamp, Token, Topic, TopicError, TopicId, TopicPartition, TopicSpec, View,
};

use catalog::Entry;
pub use error::OpenError;
use inner::Inner;
pub use settings::KafkaSettings;

/// A log on an Apache Kafka cluster, as one of its instances sees it. See the crate's text.
///
/// Dropping it writes what was appended and stops; [`Log::close`] also says whether that worked.
pub struct KafkaLog {
    inner: Arc<Inner>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl KafkaLog {
    /// What the log of these settings is; `None` where there is none. Writes nothing and takes nothing
    /// from a process that has it open.
    ///
    /// # Errors
    /// As [`KafkaLog::open`].
    pub fn look(settings: &KafkaSettings) -> Result<Option<Glimpse>, OpenError> {
        open::look(settings)
    }

    /// Opens the log, or begins it: the internal topic is created when there is none.
    ///
    /// Takes the instance's transactional id. A process that runs under the same name is fenced by
    /// it and stops; the names it held stay claimed until somebody claims them.
    ///
    /// # Errors
    /// See [`OpenError`]. It waits for brokers no longer than a few of the setting's request
    /// timeouts.
    pub fn open(settings: KafkaSettings) -> Result<Self, OpenError> {
        open::open(settings)
    }

    fn finish_writer(&self) -> bool {
        let writer = self
            .writer
            .lock()
            .expect("no holder of the thread panics")
            .take();
        writer.is_none_or(|thread| thread.join().is_ok())
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("bootstrap", &self.inner.settings.bootstrap)
            .field("id", &self.inner.id)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.inner.queue.stop("it was dropped");
        self.finish_writer();
        self.inner.follower.stop();
    }
}

impl Log for KafkaLog {
    fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    fn id(&self) -> u64 {
        self.inner.log_id
    }

    fn standing(&self) -> Standing {
        self.inner.standing().clone()
    }

    /// When an unfinished copy becomes complete its topics get their compaction and the broker's time
    /// where the settings name them.
    fn set_standing(&self, standing: &Standing) -> Result<(), AppendError> {
        self.inner.queue.check_running()?;
        open::set_standing(&self.inner, standing)
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        self.inner.queue.check_running()?;
        open::create_topic(&self.inner, spec)
    }

    fn topics(&self) -> Vec<Topic> {
        let topics = self
            .inner
            .topics
            .read()
            .expect("no holder of the topics panics");
        topics.values().map(|(topic, _)| topic.clone()).collect()
    }

    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        owner::claim(&self.inner, owner)
    }

    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        self.inner.queue.check_running()?;
        self.inner.queue.lose(&token.owner, token.generation);
        Ok(())
    }

    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        let known = |at| self.inner.is_partition(at);
        self.inner
            .queue
            .push(token, append, self.inner.limits(), known)
    }

    fn flush(&self) {
        self.inner.queue.flush();
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        self.inner.read(at, from, max_bytes, view)
    }

    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        self.inner.offset_at(at, time)
    }

    fn bounds(&self, at: TopicPartition, _view: View) -> Result<Bounds, ReadError> {
        self.inner.bounds(at)
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Option<Offset> {
        match self.inner.queue.consumed(owner, at) {
            Ok(position) => position,
            Err(queue::NotHeld) => self.inner.foreign_position(owner, at),
        }
    }

    fn listen(&self, listener: Listener) {
        self.inner.listeners.add(listener);
    }

    /// `bytes` counts what is in memory: what lies on the brokers is theirs to say. `syncs` counts
    /// commits.
    fn stats(&self) -> Stats {
        let (appends, pending) = self.inner.queue.counts();
        Stats {
            bytes: self.inner.total.load(Ordering::Relaxed) as u64,
            appends,
            syncs: self.inner.commits.load(Ordering::Relaxed),
            pending,
            clock_step_ms: self.inner.clock.step_ms(),
            ..Stats::default()
        }
    }

    fn close(&self) -> Result<(), AppendError> {
        self.inner.queue.check_running()?;
        if !self.inner.queue.stop("it was closed") {
            self.inner.queue.check_running()?;
        }
        let finished = self.finish_writer();
        self.inner.tell(Progress::Stopped);
        if !finished {
            return Err(AppendError::Stopped("the writer panicked".into()));
        }
        // The next one to open goes on from this time.
        let now = self.inner.clock.now();
        let written = self
            .inner
            .registry()
            .write::<String>(|_| Ok(vec![Entry::Clock(now)]));
        written.map_err(AppendError::Unreachable)
    }
}
