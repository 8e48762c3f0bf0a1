//! Brokers for the tests of a binary, started through `tools/kafka/brokers.py`.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test binary uses its part of it, and a test that panics says where"
)]

pub(crate) mod member;
pub(crate) mod others;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use onhand_kafka::{KafkaLog, KafkaSettings};
use onhand_log::testing::{Engine, topic};
use onhand_log::{Log, TopicPartition};

static BROKERS_ARE_WHOLE: RwLock<()> = RwLock::new(());

/// Held by a test that needs all brokers, so that no other one of its binary harms them.
pub(crate) fn whole() -> RwLockReadGuard<'static, ()> {
    let whole = BROKERS_ARE_WHOLE.read();
    whole.unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that harms brokers.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    let alone = BROKERS_ARE_WHOLE.write();
    alone.unwrap_or_else(PoisonError::into_inner)
}

/// The only partition of a topic, which is made where it is missing.
pub(crate) fn place(log: &KafkaLog, name: &str) -> TopicPartition {
    TopicPartition {
        topic: topic(log, name, 1),
        partition: 0,
    }
}

/// Nodes of one cluster. They end when this process does, however it ends: they watch a pipe.
pub(crate) struct Brokers {
    pub(crate) bootstrap: String,
    pub(crate) nodes: u16,
    /// Where the nodes live; `None` for a cluster that others run.
    home: Option<PathBuf>,
    _watched: Option<Child>,
}

fn tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kafka/brokers.py")
}

impl Brokers {
    /// The cluster that `KAFKA_BOOTSTRAP` names, else one of that many nodes of our own.
    pub(crate) fn shared(nodes: u16) -> Self {
        // Shown with RUST_LOG=onhand_kafka=debug.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
        match std::env::var("KAFKA_BOOTSTRAP") {
            Ok(bootstrap) if !bootstrap.is_empty() => Self {
                bootstrap,
                nodes,
                home: None,
                _watched: None,
            },
            _ => Self::own(nodes),
        }
    }

    /// Nodes of our own, which a test may kill.
    pub(crate) fn own(nodes: u16) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder").keep();
        let mut child = Command::new("python3")
            .arg(tool())
            .arg("run")
            .arg(&home)
            .args(["--owned", "--brokers", &nodes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed to start brokers; install it");
        let output = child.stdout.take().expect("it was piped");
        let mut bootstrap = None;
        let mut lines = BufReader::new(output).lines();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(found) = line.strip_prefix("bootstrap: ") {
                bootstrap = Some(found.to_owned());
            }
            if line.starts_with("running") {
                break;
            }
        }
        // Read on, so that it never writes into a closed pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let bootstrap = bootstrap.unwrap_or_else(|| {
            panic!("no brokers: what tools/kafka/brokers.py said stands above");
        });
        Self {
            bootstrap,
            nodes,
            home: Some(home),
            _watched: Some(child),
        }
    }

    /// Whether a test may kill them and change their topics; says so where it may not.
    pub(crate) fn are_ours(&self) -> bool {
        if self.home.is_none() {
            println!("skipped: the cluster that KAFKA_BOOTSTRAP names is not for a test to harm");
        }
        self.home.is_some()
    }

    fn home(&self) -> &Path {
        self.home.as_deref().expect("brokers of our own")
    }

    fn pid(&self, node: u16) -> u32 {
        let text = std::fs::read_to_string(self.home().join("brokers.json")).expect("brokers.json");
        let state: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let pid = state["nodes"][usize::from(node) - 1]["pid"].as_u64();
        u32::try_from(pid.expect("a pid")).expect("a pid")
    }

    /// kill -9.
    pub(crate) fn kill(&self, node: u16) {
        self.signal(node, "-KILL");
    }

    pub(crate) fn signal(&self, node: u16, signal: &str) {
        let pid = self.pid(node).to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.expect("kill exists").success());
    }

    /// Starts a node again on its data and ports.
    pub(crate) fn restart(&self, node: u16) {
        let status = Command::new("python3")
            .arg(tool())
            .arg("node")
            .arg(self.home())
            .arg(node.to_string())
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("python3 exists").success());
    }

    /// Runs one of Kafka's own command line tools.
    pub(crate) fn kafka(&self, class: &str, arguments: &[&str]) {
        let text = std::fs::read_to_string(self.home().join("brokers.json")).expect("brokers.json");
        let state: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let jars = format!("{}/*", state["jars"].as_str().expect("jars"));
        let output = Command::new("java")
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", &jars, class, "--bootstrap-server"])
            .arg(&self.bootstrap)
            .args(arguments)
            .output()
            .expect("java exists");
        assert!(output.status.success(), "{class}: {output:?}");
    }

    /// Waits until every partition of the cluster has all its copies in step.
    pub(crate) fn await_in_step(&self) {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let mut config = rdkafka::ClientConfig::new();
        let consumer: BaseConsumer = config
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .expect("a client");
        eventually("copies are in step", || {
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(5));
            metadata.is_ok_and(|metadata| {
                let partitions = metadata
                    .topics()
                    .iter()
                    .flat_map(|topic| topic.partitions());
                metadata.brokers().len() == usize::from(self.nodes)
                    && partitions.clone().count() > 0
                    && partitions
                        .into_iter()
                        .all(|p| p.isr().len() == p.replicas().len())
            })
        });
    }

    /// Settings for an instance on a log of its own.
    pub(crate) fn settings(&self, prefix: &str, instance: &str) -> KafkaSettings {
        let mut settings = KafkaSettings::new(&self.bootstrap, instance);
        settings.prefix = prefix.into();
        settings.replication = self.nodes.min(3);
        settings.insync_min = self.nodes.min(2);
        settings
    }

    pub(crate) fn open(&self, prefix: &str, instance: &str) -> KafkaLog {
        let log = KafkaLog::open(self.settings(prefix, instance));
        log.unwrap_or_else(|error| panic!("the log does not open: {error}"))
    }
}

/// Logs for the contract, each with a prefix of its own.
pub(crate) struct Fresh<'b> {
    brokers: &'b Brokers,
    /// Of the newest.
    prefix: Mutex<String>,
}

impl<'b> Fresh<'b> {
    pub(crate) fn on(brokers: &'b Brokers) -> Self {
        let prefix = Mutex::default();
        Self { brokers, prefix }
    }
}

impl Engine for Fresh<'_> {
    fn fresh(&self) -> Arc<dyn Log> {
        let prefix = prefix();
        self.prefix.lock().unwrap().clone_from(&prefix);
        Arc::new(self.brokers.open(&prefix, "a"))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> Option<Arc<dyn Log>> {
        drop(log);
        Some(Arc::new(
            self.brokers.open(&self.prefix.lock().unwrap(), "a"),
        ))
    }
}

/// A prefix that no other test has, also on a cluster that outlives this process.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let stamp = since.expect("after 1970").as_micros();
    format!("t{}-{stamp}-{next}.", std::process::id())
}

/// Waits until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
