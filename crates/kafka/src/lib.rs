//! The log on Apache Kafka.
//!
//! [`KafkaLog`] keeps the promises of [`Log`] with real brokers: an append is part of one transaction,
//! the positions that it consumed included. What leaves the instance was committed; its own work sees
//! its own records before.
//!
//! ```text
//!            append ─► queue ─► writer: one transaction at a time ═══════► brokers
//!                                  │ acknowledged  │ committed               │
//!   Append::on_end, listeners ◄────│───────────────┤                         │
//!                                  ▼ Latest        ▼ Durable                 │
//!     read ◄── window per partition (newest records, in memory) ◄─ follower ◄┤
//!     read ◄── pool of consumers: what is older ◄────────────────────────────┤
//!    claim ──► onhand.cluster: in which order names were claimed ──► fence ═►┘
//!     join ──► onhand.cluster: who lives, and who shall own what
//! ```
//!
//! Records are sent as soon as they are queued, and shown by [`View::Latest`] as soon as the brokers
//! hold them and everything before them is decided. What follows from them joins the same transaction,
//! so the steps of a reservation inside one instance share one commit. It is committed when everything
//! in it is acknowledged and whoever was told of it has flushed, or nothing came for 2 ms; under load
//! when it is large or 50 ms old. What is queued while it commits goes into the next one, under another
//! transactional id, so that it need not wait until the brokers have done with this one.
//!
//! **What ends how.** [`Ending::Durable`](onhand_log::Ending::Durable): the commit was confirmed. Kafka
//! holds it on at least `min.insync.replicas` brokers, in their memory: the loss of one of them loses
//! nothing, a power cut of all of them may. `Fenced`: the name was claimed by another instance, and the
//! transaction was given up. `Aborted`: no commit was asked for, or it is proven not to be there.
//! `Unknown`: a commit was asked for, and neither its answer nor a broker that could say whether it is
//! there came within the setting's time. A commit without an answer is looked for before it is called
//! unknown: ending its transactional id decides it, and its records are visible or not. When a
//! transaction comes to nothing after something of it was shown, everything that is held then under any
//! token of this instance ends `Aborted` until it is claimed again, because it may rest on that.
//!
//! **Several instances** share a log by the compacted topic `onhand.cluster`. Each run of an instance is
//! an *incarnation* with a few transactional ids of its own. The order of that topic decides who owns a
//! name: a claim is a record, and whoever claims fences all ids of everybody that claimed below it, who
//! reads the claim before it uses a new id. Who joined ([`KafkaLog::join`]) says every 300 ms that it
//! lives; the live one with the smallest name writes who shall own which partition. Being wrong about
//! who is dead disturbs somebody, and nothing worse. The protocol and its figures: ADR 8.
//!
//! **What differs from the journal.** Offsets have holes, one where each transaction ended.
//! [`View::Latest`] shows an append when the brokers hold it, not when [`Log::append`] returns; not
//! before its commit where another instance has written before it in the partition and that is open or
//! was not followed yet; and it takes back what came to nothing: reading there gives nothing, then what
//! comes next. A flush commits at once only when what was appended before it has been shown. Batches read from brokers are runs of
//! consecutive records, not the batches that were appended; those that this instance keeps in memory
//! are. A record that this instance committed is visible to its own durable reads when its ending is
//! told, unless another instance has a transaction open before it in that partition: then it is when
//! that ends, at the latest after the transaction timeout. Times up to 1970 are stored one millisecond
//! early (`times`). [`Log::now`] is the wall clock of the instance, and goes on after a clean close from
//! where it was.
//!
//! **What strangers write.** Records of topics that only instances write
//! ([`KafkaSettings::own_topics`], `onhand.positions`) bear a label, and what bears none is left out, told of and
//! counted (`labels`).
//!
//! **What this crate relies on.** Others may read its topics, and write those that are made for it. Nobody
//! but instances may write `onhand.log` and `onhand.cluster`: garbage in the latter is ignored, in the former it
//! refuses every start; a forged claim, assignment or label is believed. Nobody but instances of this log may take
//! transactional ids that begin with `<prefix>onhand.`. Brokers must not create topics on their own
//! (`auto.create.topics.enable=false`): a topic that somebody deletes could come back with one copy.
//! Everything read from `onhand.cluster` was acknowledged by `min.insync.replicas` brokers: should it
//! lose its newest records all the same, two could own one name.
//!
//! Modules in reading order: `settings`, `topics` (creating and checking them), `catalog` and `registry`
//! (`onhand.log`: the topics' numbers), `cluster` (`onhand.cluster`: who is there and who shall own
//! what), `ids` (transactional ids), `owner` (claims), `queue`, `writer`, `transaction` and `producer`
//! (appends), `positions` (consumed positions), `labels` (what is ours), `partition`, `follower`, `cold` and `runs` (reads).

#![warn(missing_docs)]

mod catalog;
mod client;
mod cluster;
mod cold;
mod error;
mod follower;
mod ids;
mod inner;
mod labels;
mod open;
mod own_topic;
mod owner;
mod partition;
mod polled;
mod positions;
mod producer;
mod queue;
mod registry;
mod runs;
mod settings;
mod times;
mod topics;
mod transaction;
mod watch;
mod writer;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use onhand_log::cluster::{Cluster, Ended};
use onhand_log::{
    Append, AppendError, Bounds, Fetch, Glimpse, Listener, Log, Offset, Progress, ReadError,
    Standing, Stats, Timestamp, Token, Topic, TopicError, TopicId, TopicPartition, TopicSpec, View,
};

use catalog::Entry;
pub use cluster::member::Join;
pub use error::OpenError;
use ids::EnterError;
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

    /// Names of the instances that serve this log: of those that joined, who says that it lives. Joins
    /// nothing, writes nothing, and listens for two times as long as members wait before they call
    /// another one dead: 3 s by default. Who is stopped or cut off for that long is not heard.
    ///
    /// # Errors
    /// As [`KafkaLog::open`]; no log is not an error.
    pub fn living(settings: &KafkaSettings) -> Result<Vec<String>, OpenError> {
        open::living(settings)
    }

    /// Opens the log, or begins it: its internal topics are created when there are none.
    ///
    /// Begins a new run of the instance, with transactional ids of its own. A process that runs under
    /// the same name is fenced by it and stops; the names it held stay claimed until somebody claims
    /// them.
    ///
    /// # Errors
    /// See [`OpenError`]. It waits for brokers no longer than a few of the setting's request
    /// timeouts.
    pub fn open(settings: KafkaSettings) -> Result<Self, OpenError> {
        open::open(settings)
    }

    /// Joins the instances that share this log, so that its partitions spread over them. Returns when
    /// the others can hear this one; partitions are assigned a moment later.
    ///
    /// When the run of this member ends, other than by [`Cluster::leave`], the log stops: it can write
    /// nothing more. The instance joins anew by opening the log again.
    ///
    /// # Errors
    /// [`OpenError::Settings`] when something asked for cannot work, or this log joined already;
    /// [`OpenError::Cluster`] when brokers do not answer in time.
    pub fn join(&self, join: Join) -> Result<Arc<dyn Cluster>, OpenError> {
        let inner = Arc::downgrade(&self.inner);
        let on_end = move |why| {
            if let Some(inner) = inner.upgrade() {
                let why = match why {
                    Ended::Replaced => EnterError::Replaced,
                    Ended::Silent | Ended::Left => EnterError::Silent,
                };
                owner::end(&inner, &why);
            }
        };
        cluster::member::join(&self.inner.board, join, Box::new(on_end))
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
            .field("incarnation", &self.inner.ids.incarnation())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.inner.queue.stop("it was dropped");
        self.finish_writer();
        self.inner.follower.stop();
        self.inner.board.stop();
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
        owner::give_up(&self.inner, token)
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

    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        self.inner.bounds(at, view)
    }

    fn told_end(&self, at: TopicPartition) -> Result<Offset, ReadError> {
        self.inner.told_end(at)
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        match self.inner.queue.consumed(owner, at) {
            Ok(position) => Ok(position),
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
            strangers: self.inner.labels.strangers(),
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
        owner::release_all(&self.inner);
        self.inner.board.stop();
        // The next one to open goes on from this time.
        let now = self.inner.clock.now();
        let written = self
            .inner
            .registry()
            .write::<String>(|_| Ok(vec![Entry::Clock(now)]));
        written.map_err(AppendError::Unreachable)
    }
}
