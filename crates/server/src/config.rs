//! What a node is told at its start. Every bound has its reason beside it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use onhand_ledger::Settings;

/// How durable an acknowledgement is. See the journal's own description.
pub use onhand_log::journal::Durability;

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept; on Kafka only what shortens restarts. Created where it is missing; one
    /// process at a time.
    pub data: PathBuf,
    /// Where HTTP is served. Default 127.0.0.1:7171: there is no login yet, so nobody else should
    /// reach it. Port 0 takes a free one, which the ready callback says.
    pub listen: SocketAddr,
    /// Where other instances reach this one, `host:port`. Default: the listen address.
    pub advertise: Option<String>,
    /// Where the log is kept. Default: the embedded journal, synced.
    pub engine: LogEngine,
    /// Partitions of a new log (default 16); an existing one keeps its count.
    pub partitions: Option<u16>,
    /// Threads that decide (default 1: on two cores, reading and rendering cost more than deciding).
    pub workers: u16,
    /// Sources that may `set` absolute quantities. Default none: all others only adjust and count.
    pub truth: Vec<String>,
    /// Park facts about SKUs and locations never named before. Default false: a fact creates them.
    pub known_only: bool,
    /// How long ids of commands are remembered, by log time. Default 7 days.
    pub ids_age: Duration,
    /// Ids remembered in each partition, newest first. Default 1 M.
    pub ids_max: u32,
    /// How far back from its newest event time a level folds exactly. Default 72 hours.
    pub horizon: Duration,
    /// How long a step of a reservation waits for the owners of its SKUs, by log time. Default 10 s.
    /// [`Limits::answer_wait`] should be longer.
    pub answer_timeout: Duration,
    /// Take commands that other programs wrote to `stock.inbox`. `None`: on Kafka, where others can
    /// write. On a journal it creates the topic.
    pub inbox: Option<bool>,
    /// The JSON views of what was decided that are written for other programs to read. `None`: all on
    /// Kafka, where others can read, and none on a journal; feeds and history need none of them.
    pub views: Option<ViewChoice>,
    /// Write `stock.changes` and `stock.outcomes` as records of many lines, up to 32 KiB each and without
    /// a key, in place of one record for each line: a seventh to a quarter less of the node's processor
    /// time. Default false: tools that take a record for an object go on working. Records written before
    /// stay as they are.
    pub pack_views: bool,
    /// How many other instances follow each partition, so that one of them takes it over warm when its
    /// owner goes, and answers reads that may be a little old. At most as many as there are others.
    /// Default 0. Each costs the memory of the state once more, spread over the instances, and the
    /// traffic of reading its decisions. Every instance should have the same number. A journal has
    /// nobody else.
    pub standbys: u16,
    /// Most time that an instance which joins others warms up: it follows what is going to be assigned to it,
    /// which its owners serve meanwhile, and takes it over once it is level with them, or when this is
    /// over. Default 10 minutes; zero: it takes over at once, and what it takes answers nobody until it
    /// is restored. A journal has nobody else.
    pub warm_up: Duration,
    /// How long a start waits for the brokers, which may start beside it: none answers yet, or too few
    /// for the copies that are wanted. It says so meanwhile, and then ends. One question takes up to 10 s,
    /// and is not cut short. Default 60 s; zero: it asks once. A journal is never waited for.
    pub start_wait: Duration,
    /// What the node takes at once.
    pub limits: Limits,
}

/// Which JSON views are written. Each costs a record for each change, outcome, level or reservation. One
/// that is chosen later begins with what is decided from then on, if another was written before.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ViewChoice {
    /// `stock.changes`.
    pub changes: bool,
    /// `stock.outcomes`.
    pub outcomes: bool,
    /// `stock.levels`.
    pub levels: bool,
    /// `stock.reservations`.
    pub reservations: bool,
}

impl ViewChoice {
    /// Nothing is written.
    pub const NONE: Self = Self {
        changes: false,
        outcomes: false,
        levels: false,
        reservations: false,
    };
    /// Everything is written.
    pub const ALL: Self = Self {
        changes: true,
        outcomes: true,
        levels: true,
        reservations: true,
    };
}

impl FromStr for ViewChoice {
    type Err = String;

    /// `on`, `off`, or some of `changes,outcomes,levels,reservations`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => return Ok(Self::ALL),
            "off" => return Ok(Self::NONE),
            _ => {}
        }
        let mut chosen = Self::NONE;
        for name in text.split(',') {
            match name {
                "changes" => chosen.changes = true,
                "outcomes" => chosen.outcomes = true,
                "levels" => chosen.levels = true,
                "reservations" => chosen.reservations = true,
                other => {
                    return Err(format!(
                        "{other:?} is no view; write on, off, or some of \
                         changes,outcomes,levels,reservations"
                    ));
                }
            }
        }
        Ok(chosen)
    }
}

/// What keeps the log.
#[derive(Clone, Debug)]
pub enum LogEngine {
    /// The embedded journal, in the data directory.
    Journal(Durability),
    /// Apache Kafka. The data directory then holds only what shortens restarts.
    Kafka(KafkaConfig),
}

/// How a node uses Apache Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated; any broker of the cluster is enough.
    pub brokers: String,
    /// The node's own name on the cluster: 1 to 100 of `[a-zA-Z0-9._-]`. Nodes of different names share
    /// the log; one that starts under the name of another takes its place, which then stops.
    pub instance: String,
    /// Stands before the names of topics, groups and transactional ids. Default empty.
    pub prefix: String,
    /// Copies of each partition. Default 3.
    pub replication: u16,
    /// Copies that hold a record before it is acknowledged. Default 2: the loss of any one broker loses
    /// nothing.
    pub insync_min: u16,
    /// Runs on topics that could lose data: too few copies, or made otherwise by others. Default false.
    pub allow_unsafe_topics: bool,
    /// More settings of the client, as librdkafka names them (`security.protocol`, `sasl.username` ...).
    /// Those that the promises rest on are refused.
    pub client: Vec<(String, String)>,
    /// How long the brokers keep records of `stock.inbox`. `None`, the default: without end. What they drop
    /// before the gate has taken it is lost, and the gate says so.
    pub inbox_retention: Option<Duration>,
    /// A node of which the others heard nothing for so long is given up, and its partitions are taken over.
    /// Default 1.5 s; 1.2 s to 60 s, the same for all.
    pub session_timeout: Duration,
}

impl KafkaConfig {
    /// The defaults on that cluster, under that name.
    pub fn new(brokers: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            instance: instance.into(),
            prefix: String::new(),
            replication: 3,
            insync_min: 2,
            allow_unsafe_topics: false,
            client: Vec::new(),
            inbox_retention: None,
            session_timeout: Duration::from_millis(1_500),
        }
    }
}

/// The bounds of the HTTP side.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one line of a stream: the largest command (100 lines of longest names) fits.
    pub line_bytes: usize,
    /// Bytes of a single request's body, decoded.
    pub body_bytes: usize,
    /// Connections at a time; more wait in the kernel's queue. Each costs about 20 KB when idle.
    pub connections: usize,
    /// Feed readers at a time; above it 429. Each may hold [`Limits::feed_queue`] pieces.
    pub feed_readers: usize,
    /// Bulk streams at a time; above it 429. Each may hold [`Limits::unread_bytes`].
    pub streams: usize,
    /// Bytes of lines, of all streams together, that are on their way to a decision: enough for
    /// several syncs' worth at full speed.
    pub in_flight_bytes: usize,
    /// Bytes of lines of one stream whose outcomes are kept in memory for a client that does not read
    /// yet. Above it only their places are kept, and they are read again from the log.
    pub unread_bytes: usize,
    /// Bytes that one stream may put aside on disk for a client that does not read; at it the node
    /// stops reading that client's lines. One line costs 2 B, a refused one about 250 B.
    pub spool_bytes: u64,
    /// Pieces of a feed that wait for a reader's socket before it counts as slow.
    pub feed_queue: usize,
    /// A feed reader whose socket has taken nothing for this long is cut off with its position.
    pub feed_stall: Duration,
    /// Bytes of decisions that the feeds share in memory; who is further behind reads the log itself.
    pub feed_ring_bytes: usize,
    /// Time between two signs of life on a quiet feed: proxies close connections after 30 to 60 s.
    pub heartbeat: Duration,
    /// Reads that go through the log (history, as of, catching up) at a time: they share the disk and
    /// the cores with the writer.
    pub scans: usize,
    /// How long a request may wait for its outcome. A reservation's step ends in 10 s; beyond that
    /// something is wrong, and the client is told to ask again.
    pub answer_wait: Duration,
    /// How long the owner of a key is looked for while its partition moves or its instance does not
    /// answer: longer than it takes to notice a death and to restore what it had.
    pub forward_wait: Duration,
    /// How long a client may take for its request's head, or between two pieces of a body.
    pub request_idle: Duration,
    /// How long a shutdown waits for requests under way.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 64 << 10,
            body_bytes: 1 << 20,
            connections: 10_000,
            feed_readers: 1_000,
            streams: 64,
            in_flight_bytes: 16 << 20,
            unread_bytes: 8 << 20,
            spool_bytes: 1 << 30,
            feed_queue: 16,
            feed_stall: Duration::from_secs(30),
            feed_ring_bytes: 32 << 20,
            heartbeat: Duration::from_secs(15),
            scans: 4,
            answer_wait: Duration::from_secs(60),
            forward_wait: Duration::from_secs(10),
            request_idle: Duration::from_secs(120),
            drain: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// A node on that directory, with every default.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let ledger = Settings::default();
        let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        Self {
            data: data.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7171)),
            advertise: None,
            engine: LogEngine::Journal(Durability::Sync),
            partitions: None,
            workers: 1,
            truth: Vec::new(),
            known_only: false,
            ids_age: ms(ledger.ids_age_ms),
            ids_max: ledger.ids_max,
            horizon: ms(ledger.horizon_ms),
            answer_timeout: ms(ledger.ask_timeout_ms),
            inbox: None,
            views: None,
            pack_views: false,
            standbys: 0,
            warm_up: Duration::from_secs(600),
            start_wait: Duration::from_secs(60),
            limits: Limits::default(),
        }
    }
}
