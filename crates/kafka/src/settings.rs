//! How an instance uses its cluster: every setting with its default and the reason for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use onhand_log::Opening;
use rdkafka::ClientConfig;

use crate::error::OpenError;

/// How a [`KafkaLog`](crate::KafkaLog) is opened. [`KafkaSettings::new`] gives the defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaSettings {
    /// `host:port`, comma-separated: where the first connection goes. Any of them is enough.
    pub bootstrap: String,
    /// Stands before the name of every topic, consumer group and transactional id. Empty by
    /// default. Two logs on one cluster have different prefixes, of which none begins the other's
    /// names.
    pub prefix: String,
    /// This instance's name, 1 to 100 bytes of `[a-zA-Z0-9._-]`. A second process that opens under
    /// the same name takes the first one's place, which then stops.
    pub instance: String,
    /// Copies of each partition of topics that are created. Default 3: one broker may be lost
    /// and one restarted. More than there are brokers is refused unless `allow_unsafe_topics`, which
    /// then takes as many as there are.
    pub replication: u16,
    /// Copies that must hold a record before it is acknowledged (`min.insync.replicas`). Default 2:
    /// the loss of any one broker loses nothing. With `allow_unsafe_topics` never above the copies.
    pub insync_min: u16,
    /// Opens although topics could lose data or lie on too few brokers; each is warned of.
    pub allow_unsafe_topics: bool,
    /// Names, without the prefix, of topics whose records get the broker's time instead of their
    /// own (`message.timestamp.type=LogAppendTime`). None by default.
    pub append_time_topics: BTreeSet<String>,
    /// Names, without the prefix, of topics whose records the brokers may drop, and after how long
    /// (`retention.ms`); `None`: never. Of all others they may drop none. Whoever drops by age goes by
    /// the time of a record, which its sender sets as it likes: so records of such a topic get the
    /// broker's time, where they may be dropped at all. Judged only when the log is served. Empty by
    /// default.
    pub retention: BTreeMap<String, Option<Duration>>,
    /// Names, without the prefix, of topics that only instances of this log write. Their records bear a
    /// label, and what bears none is left out by all who read the log: told of, counted
    /// ([`Stats::strangers`](onhand_log::Stats::strangers)), and otherwise as if it was not there. None by
    /// default. Written down when a log is begun, and read from there ever after.
    pub own_topics: BTreeSet<String>,
    /// After this the cluster aborts a transaction whose instance went away
    /// (`transaction.timeout.ms`). Default 10 s: far above what a commit takes. What a dead instance
    /// left open is ended by its heirs long before; this is for when nobody is left, because an open
    /// transaction hides everything behind it from all readers. A record waits half of it for its
    /// acknowledgement, and a request for its answer.
    pub transaction_timeout: Duration,
    /// Transactional ids that the instance takes when it opens, 2 to 8, to write with in turn. Default
    /// 4: the next transaction of one id meets the end of its last one and waits 20 ms, so that a small
    /// transaction takes 33 to 38 ms with one id and 8 to 13 ms with four, on three brokers. More bring
    /// nothing, and all have to be fenced when the instance dies.
    pub transactional_ids: u64,
    /// A member of which nothing was heard for so long is given up, and what it owned goes to others. Each
    /// says every [`KafkaSettings::HEARTBEAT`] that it lives, and is judged by who counts so many of its own
    /// messages without one of the other. Default 1.5 s, five of them: four may be late, as when a broker's
    /// place is taken by another; a dead member is noticed after 1.0 to 1.5 s, measured. Longer where
    /// machines stand still at times: it moves nothing then, and what a dead member had stays away longer.
    /// 1.2 s to 60 s. The same for all members: who assigns partitions goes by its own.
    pub session_timeout: Duration,
    /// How long a claim waits for a live member to give a name up before it fences it, which disturbs
    /// all that this member has. Default 15 s: a member under load finishes what it began in it, also while
    /// a broker is being replaced; one that says it lives and does not is rare.
    pub release_timeout: Duration,
    /// How long an append may wait for brokers that do not answer before it ends
    /// [`Aborted`](onhand_log::Ending::Aborted), and how long a commit without an answer is asked
    /// about before it ends [`Unknown`](onhand_log::Ending::Unknown). Default 15 s: a broker's
    /// restart passes unnoticed, a dead cluster does not block callers for long.
    pub append_timeout: Duration,
    /// The longest that a read, a claim or the creation of a topic waits. Default 10 s.
    pub request_timeout: Duration,
    /// Bytes of records at which a transaction takes no more appends. Default 8 MiB: a commit costs
    /// several round trips, so under load a transaction should be large; and readers see nothing of it
    /// before it ends, so it must not be larger than a few tens of milliseconds of work. One larger
    /// append still goes alone.
    pub transaction_bytes: usize,
    /// The largest append, and so the largest record. Default and limit 16 MiB, as the journal's: what
    /// passes there passes here. Topics are created with `max.message.bytes` to fit.
    pub append_bytes_max: usize,
    /// Bytes of appends whose ending is not known yet, above which [`Log::append`](onhand_log::Log)
    /// waits. Default 64 MiB, eight full transactions.
    pub pending_bytes_max: usize,
    /// After this a transaction takes no more appends. Default 50 ms: work that its own appends led to
    /// joins it, so that a reservation's steps share one commit; where that goes on and on it must end some
    /// time. New work it takes in its first 8 ms.
    pub transaction_age: Duration,
    /// How long a transaction waits for a flush that nobody asks for, once all in it was acknowledged
    /// and shown to who works on. Default 2 ms.
    pub linger: Duration,
    /// The producer's `batch.size`. Default 4 MiB: Kafka compresses and writes whole batches, and what
    /// a transaction sends to one partition at a time should be one.
    pub batch_bytes: usize,
    /// The producer's `linger.ms`. Default 0: a transaction's first records wait for their
    /// partitions to be registered anyway, which gathers them; more would only be latency.
    pub batch_linger: Duration,
    /// The producer's `compression.type`. Default `lz4`: JSON and changelogs shrink to a third for
    /// little work. Also `none`, `snappy`.
    pub compression: String,
    /// The consumers' `fetch.max.bytes`: most that one fetch brings. Default 8 MiB. Each of the
    /// consumers of an instance (one that follows, [`KafkaSettings::readers`] that look things up)
    /// holds about twice that.
    pub fetch_bytes: usize,
    /// Consumers for restores and history, which read what is no longer in memory. Default 2.
    pub readers: usize,
    /// A partition that nobody read for so long is not followed any more. Default 60 s.
    pub idle: Duration,
    /// Bytes of the newest records kept in memory, all partitions together. Default 256 MiB: tasks and
    /// feeds that keep up never ask a broker. Above it what nobody reads goes first, then the oldest.
    pub cache_bytes: usize,
    /// Further librdkafka settings. The client is built without TLS, and of SASL it speaks PLAIN only
    /// (`security.protocol=SASL_PLAINTEXT`, `sasl.mechanism`, `sasl.username`, `sasl.password`). They may
    /// not replace what the log's promises rest on; such a key is refused.
    pub client: Vec<(String, String)>,
    /// What it is opened for. Default [`Opening::Serve`], which refuses a sealed log and an unfinished
    /// copy.
    pub opening: Opening,
}

/// What the promises rest on: setting one of these by hand would break them silently.
const RESERVED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "check.crcs",
    "request.required.acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.broker.list",
    "transaction.timeout.ms",
    "transactional.id",
];

/// What a fetch brings of one partition, bytes. A consumer that is sent to another partition throws away what it had fetched: with 8 MiB and
/// 100,000 records a backlog that is read from the brokers, four partitions by two readers, went at 0.6 of
/// the speed (`docs/benchmarks.md`).
const PARTITION_FETCH_BYTES: usize = 1 << 20;
/// A consumer that has so many records of a partition fetches no more of it.
const QUEUED_MESSAGES: usize = 5_000;

/// How long one request about `onhand.cluster` waits before it is asked again, elsewhere if need be.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(1);
/// The journal's largest append.
const APPEND_BYTES_LIMIT: usize = 16 << 20;
/// What librdkafka and the broker add around one record of the largest append.
const MESSAGE_OVERHEAD: usize = 64 << 10;

impl KafkaSettings {
    /// How often a member says that it lives: ten members write 33 small records a second for it. The same
    /// for all members, as they are judged by it.
    pub const HEARTBEAT: Duration = Duration::from_millis(300);

    /// The defaults, for this cluster and this instance.
    pub fn new(bootstrap: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            prefix: String::new(),
            instance: instance.into(),
            replication: 3,
            insync_min: 2,
            allow_unsafe_topics: false,
            append_time_topics: BTreeSet::new(),
            own_topics: BTreeSet::new(),
            retention: BTreeMap::new(),
            transaction_timeout: Duration::from_secs(10),
            transactional_ids: 4,
            session_timeout: Duration::from_millis(1_500),
            release_timeout: Duration::from_secs(15),
            append_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(10),
            transaction_bytes: 8 << 20,
            append_bytes_max: APPEND_BYTES_LIMIT,
            pending_bytes_max: 64 << 20,
            transaction_age: Duration::from_millis(50),
            linger: Duration::from_millis(2),
            batch_bytes: 4 << 20,
            batch_linger: Duration::ZERO,
            compression: "lz4".into(),
            fetch_bytes: 8 << 20,
            readers: 2,
            idle: Duration::from_secs(60),
            cache_bytes: 256 << 20,
            client: Vec::new(),
            opening: Opening::Serve,
        }
    }

    /// Refuses what cannot work, each by name.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let legal = |text: &str| {
            text.bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let refuse = |what: String| Err(OpenError::Settings(what));
        if self.bootstrap.is_empty() {
            return refuse("no broker is named: give host:port".into());
        }
        if self.instance.is_empty() || self.instance.len() > 100 || !legal(&self.instance) {
            let name = &self.instance;
            return refuse(format!(
                "{name:?} is no instance name: use 1 to 100 of [a-zA-Z0-9._-]"
            ));
        }
        if self.prefix.len() > 100 || !legal(&self.prefix) {
            let prefix = &self.prefix;
            return refuse(format!(
                "{prefix:?} is no prefix: use up to 100 of [a-zA-Z0-9._-]"
            ));
        }
        if !(1..=self.replication).contains(&self.insync_min) {
            let (insync, copies) = (self.insync_min, self.replication);
            return refuse(format!(
                "insync_min is {insync}; choose 1 to the replication, {copies}"
            ));
        }
        let seconds = Duration::from_secs(1)..=Duration::from_secs(60);
        if !seconds.contains(&self.transaction_timeout) {
            let time = self.transaction_timeout;
            return refuse(format!(
                "transaction_timeout is {time:?}; choose 1 s to 60 s"
            ));
        }
        if !(2..=8).contains(&self.transactional_ids) {
            let ids = self.transactional_ids;
            return refuse(format!("transactional_ids is {ids}; choose 2 to 8"));
        }
        let sessions = Self::HEARTBEAT * 2..=Duration::from_secs(60);
        if !sessions.contains(&self.session_timeout) {
            let time = self.session_timeout;
            return refuse(format!("session_timeout is {time:?}; choose 1.2 s to 60 s"));
        }
        if !(1 << 16..=APPEND_BYTES_LIMIT).contains(&self.append_bytes_max) {
            let bytes = self.append_bytes_max;
            return refuse(format!(
                "append_bytes_max is {bytes}; choose 65536 to {APPEND_BYTES_LIMIT}"
            ));
        }
        if self.readers == 0 || self.readers > 64 {
            return refuse(format!("readers is {}; choose 1 to 64", self.readers));
        }
        if let Some((key, _)) = self.client.iter().find(|(k, _)| RESERVED.contains(&&**k)) {
            return refuse(format!(
                "{key} is not yours to set: the log's promises rest on it"
            ));
        }
        Ok(())
    }

    /// So many own heartbeats without one of another member: its session is over.
    pub(crate) fn silent_after(&self) -> u32 {
        let beats = self
            .session_timeout
            .as_millis()
            .div_ceil(Self::HEARTBEAT.as_millis());
        u32::try_from(beats).unwrap_or(u32::MAX)
    }

    /// The cluster's name for a topic.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The internal topic, which is also the transactional id that guards writing to it.
    pub(crate) fn catalog(&self) -> String {
        self.topic("onhand.log")
    }

    /// The topic by which instances share the log.
    pub(crate) fn cluster(&self) -> String {
        self.topic("onhand.cluster")
    }

    /// One of an incarnation's transactional ids.
    pub(crate) fn transactional_id(&self, incarnation: &str, number: u64) -> String {
        format!("{}onhand.{incarnation}-{number}", self.prefix)
    }

    /// The longest that one request or record waits. A transaction that waits for one of them is not
    /// aborted by the cluster meanwhile.
    pub(crate) fn step(&self) -> Duration {
        self.transaction_timeout / 2
    }

    /// `max.message.bytes` of topics, and the producer's own bound.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.append_bytes_max + MESSAGE_OVERHEAD
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", format!("onhand-{}", self.instance))
            // A broker that returns is found within half a second, not ten.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("retry.backoff.ms", "20")
            .set("socket.timeout.ms", millis(self.step()))
            // Small requests go out at once.
            .set("socket.nagle.disable", "true");
        config
    }

    /// With what the user sets in the place of what stands there.
    fn set_by_user(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.client {
            config.set(key, value);
        }
        config
    }

    /// For requests about topics.
    pub(crate) fn admin_client(&self) -> ClientConfig {
        self.set_by_user(self.client())
    }

    /// A transactional producer under this id.
    pub(crate) fn producer(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", millis(self.transaction_timeout))
            .set("message.timeout.ms", millis(self.step()))
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", &self.compression)
            .set("linger.ms", millis(self.batch_linger))
            .set("batch.size", self.batch_bytes.to_string())
            // Only bytes bound a batch.
            .set("batch.num.messages", "1000000")
            .set("message.max.bytes", self.message_bytes_max().to_string())
            // One transaction is in the producer's queue at a time; the log's own bound holds.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2097151")
            // A deleted topic is reported soon, not after 30 s.
            .set("topic.metadata.propagation.max.ms", "3000");
        self.set_by_user(config)
    }

    /// A consumer that sees what was committed, from where it is told.
    pub(crate) fn consumer(&self, fetch_wait: Duration) -> ClientConfig {
        let mut config = self.client();
        config
            // Nothing joins this group: librdkafka wants a name to assign partitions.
            .set("group.id", self.topic("onhand.reader"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", millis(fetch_wait))
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.queue.backoff.ms", "5")
            .set(
                "fetch.max.bytes",
                self.fetch_bytes.max(self.message_bytes_max()).to_string(),
            )
            .set(
                "fetch.message.max.bytes",
                self.fetch_bytes.min(PARTITION_FETCH_BYTES).to_string(),
            )
            .set("queued.min.messages", QUEUED_MESSAGES.to_string())
            .set(
                "queued.max.messages.kbytes",
                (self.fetch_bytes / 1024 * 2).max(1).to_string(),
            );
        self.set_by_user(config)
    }

    /// A producer of the topic by which instances share the log.
    pub(crate) fn voice(&self) -> ClientConfig {
        let mut config = self.set_by_user(self.client());
        // Heartbeats do not wait, whatever else is set.
        config
            .set("message.timeout.ms", millis(self.request_timeout))
            // A leader that does not answer is looked for again before others count this one as silent.
            .set("socket.timeout.ms", millis(CLUSTER_PATIENCE))
            .set("request.timeout.ms", millis(CLUSTER_PATIENCE))
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0");
        config
    }

    /// A consumer of the topic by which instances share the log. No transaction is in it; read
    /// uncommitted it cannot be held up by one that somebody else put there.
    pub(crate) fn board_consumer(&self, fetch_wait: Duration) -> ClientConfig {
        let mut config = self.undecided_consumer(fetch_wait);
        config.set("socket.timeout.ms", millis(CLUSTER_PATIENCE));
        config
    }

    /// A consumer that sees records whose transaction is not decided.
    pub(crate) fn undecided_consumer(&self, fetch_wait: Duration) -> ClientConfig {
        let mut config = self.consumer(fetch_wait);
        config.set("isolation.level", "read_uncommitted");
        config
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_as_many_heartbeats_as_its_time_needs() {
        for (ms, beats) in [(600, 2), (700, 3), (1_500, 5), (60_000, 200)] {
            let mut settings = KafkaSettings::new("b:1", "a");
            settings.session_timeout = Duration::from_millis(ms);
            assert_eq!(settings.check(), Ok(()));
            assert_eq!(settings.silent_after(), beats, "{ms} ms");
        }
    }

    #[test]
    fn what_a_user_sets_is_set_wherever_no_promise_rests_on_it() {
        let mut settings = KafkaSettings::new("b:1", "a");
        let told = [
            ("compression.type", "none"),
            ("linger.ms", "20"),
            ("batch.size", "16384"),
            ("fetch.max.bytes", "20000000"),
            ("socket.timeout.ms", "5000"),
        ];
        settings.client = told.map(|(k, v)| (k.into(), v.into())).into();
        assert_eq!(settings.check(), Ok(()));
        let (producer, consumer) = (settings.producer("t"), settings.consumer(Duration::ZERO));
        for (key, value) in told {
            assert_eq!(producer.get(key), Some(value));
            assert_eq!(consumer.get(key), Some(value));
        }
        assert_eq!(settings.admin_client().get("linger.ms"), Some("20"));
        let voice = settings.voice();
        assert_eq!(voice.get("linger.ms"), Some("0"));
        assert_eq!(voice.get("socket.timeout.ms"), Some("1000"));
    }

    #[test]
    fn the_defaults_are_allowed_and_each_wrong_setting_is_named() {
        let good = KafkaSettings::new("localhost:9092", "a");
        assert!(good.check().is_ok());
        let wrong: [(&str, fn(&mut KafkaSettings)); 10] = [
            ("broker", |s| s.bootstrap.clear()),
            ("instance", |s| s.instance = "a b".into()),
            ("prefix", |s| s.prefix = "ü".into()),
            ("insync_min", |s| s.insync_min = 4),
            ("transaction_timeout", |s| {
                s.transaction_timeout = Duration::from_millis(10);
            }),
            ("transactional_ids", |s| s.transactional_ids = 1),
            ("session_timeout", |s| {
                s.session_timeout = Duration::from_millis(300);
            }),
            ("append_bytes_max", |s| s.append_bytes_max = 17 << 20),
            ("readers", |s| s.readers = 0),
            ("acks", |s| s.client.push(("acks".into(), "1".into()))),
        ];
        for (word, change) in wrong {
            let mut bad = good.clone();
            change(&mut bad);
            let error = bad.check().expect_err(word).to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
