//! The real binary: a node as a child process that can be killed and started again, and the other
//! commands run to their end.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Answer, Http};
use super::{PATIENCE, soak};

/// The binary under test: this build's, or another one that `ONHAND_BIN` names.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("ONHAND_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_onhand").into(), PathBuf::from)
}

/// A command of the binary, free of what the caller's environment may say.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars() {
        if name.starts_with("ONHAND_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    finish(command().args(args), PATIENCE)
}

/// Runs it to its end, which must come within that time.
pub(crate) fn finish(command: &mut Command, within: Duration) -> Output {
    let name = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes).unwrap()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let status = ended(&mut child, within);
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let Some(status) = status else {
        panic!(
            "{name} did not end within {within:?}; it said:\n{}\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    };
    Output {
        status,
        stdout,
        stderr,
    }
}

fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if begin.elapsed() > within {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a command wrote, both ways, for a failure's text.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Checks a stopped node's directory offline; it must be clean.
pub(crate) fn verify_clean(dir: &Path) -> Value {
    verified(command().args(["verify", "-o", "json", "--data"]).arg(dir))
}

fn verified(verify: &mut Command) -> Value {
    let output = finish(verify, Duration::from_secs(300));
    assert!(
        output.status.success(),
        "verify found something: {}",
        said(&output)
    );
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// A port that the kernel gives to nobody by itself, so that a restarted node gets it again.
pub(crate) fn quiet_port() -> u16 {
    // Ephemeral ports begin at 32,768.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..32_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// The brokers that the tests run on in place of the journal, if `ONHAND_TEST_KAFKA` names any.
pub(crate) fn kafka() -> Option<String> {
    std::env::var("ONHAND_TEST_KAFKA").ok()
}

/// A log of its own on the brokers: no two nodes of the tests share a prefix.
pub(crate) fn fresh_log_on_kafka(bootstrap: &str) -> Vec<String> {
    static LOGS: AtomicU32 = AtomicU32::new(0);
    let number = LOGS.fetch_add(1, Ordering::Relaxed);
    let mut args = vec![
        "--kafka".to_owned(),
        bootstrap.to_owned(),
        format!("--kafka-prefix=t{}-{number}.", std::process::id()),
    ];
    if !bootstrap.contains(',') {
        args.push("--kafka-allow-unsafe".to_owned());
    }
    args
}

/// On brokers that share a busy machine with the instances all goes on, slowly. Baskets that fight for few
/// SKUs wait for each other, each hop a commit, and an instance may get no turn for seconds: a refusal or
/// a take-over would be right, and is not what is tested.
const PATIENT: [&str; 4] = ["--answer-timeout", "30s", "--session-timeout", "30s"];

/// Of the default of 16 partitions, brokers on two cores spend minutes on those that tests never fill; the
/// long counts have them.
const FEW: [&str; 2] = ["--partitions", "4"];

/// How many instances stand for one node on Kafka; `ONHAND_TEST_INSTANCES`, else one.
fn instances_of_a_node() -> usize {
    let told = std::env::var("ONHAND_TEST_INSTANCES").ok();
    told.map_or(1, |count| count.parse().expect("a number of instances"))
}

/// How a node is started.
#[derive(Default, Clone)]
pub(crate) struct Setup {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// The port to listen on; 0 takes any.
    pub(crate) port: u16,
    /// Where the data lie; a fresh temporary directory without it.
    pub(crate) dir: Option<PathBuf>,
    /// The log on Kafka that it shares with others, as [`Node::log`] gives it; without it one of its own.
    pub(crate) log: Option<Vec<String>>,
}

/// A running node.
pub(crate) struct Node {
    setup: Setup,
    /// What it is told of its log on Kafka, with the same words at each start.
    on_kafka: Vec<String>,
    child: Option<Child>,
    address: SocketAddr,
    dir: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
    /// More instances on its log: whoever asks the node asks one of all, in turn.
    companions: Vec<Node>,
    turn: AtomicUsize,
    /// Removed with the node.
    _fresh: Option<TempDir>,
}

impl Node {
    /// On a fresh directory and any port.
    pub(crate) fn fresh() -> Node {
        Node::start(Setup::default())
    }

    pub(crate) fn start(setup: Setup) -> Node {
        let (dir, fresh) = match &setup.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let fresh = tempfile::Builder::new()
                    .prefix("onhand-e2e-")
                    .tempdir()
                    .unwrap();
                (fresh.path().join("data"), Some(fresh))
            }
        };
        let on_kafka = match &setup.log {
            Some(log) => log.clone(),
            None => kafka().map_or_else(Vec::new, |bootstrap| fresh_log_on_kafka(&bootstrap)),
        };
        let mut node = Node {
            setup,
            on_kafka,
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir,
            said: Arc::default(),
            companions: Vec::new(),
            turn: AtomicUsize::new(0),
            _fresh: fresh,
        };
        let alone = node.on_kafka.is_empty() || node.setup.log.is_some();
        let is_told = node.setup.args.iter().any(|arg| arg == "--partitions");
        if !node.on_kafka.is_empty() && node.setup.log.is_none() && !is_told && !soak() {
            node.setup.args.extend(FEW.map(str::to_owned));
        }
        if !alone && instances_of_a_node() > 1 {
            node.setup
                .args
                .extend(["--instance", "first"].map(str::to_owned));
            node.setup.args.extend(PATIENT.map(str::to_owned));
        }
        node.start_again();
        for number in 1..if alone { 1 } else { instances_of_a_node() } {
            let mut args = vec!["--instance".to_owned(), format!("companion-{number}")];
            args.extend(PATIENT.map(str::to_owned));
            node.companions.push(Node::start(Setup {
                args,
                log: Some(node.log()),
                ..Setup::default()
            }));
        }
        node.await_companions();
        node
    }

    /// Waits until every companion has its share of the partitions, so that nothing moves afterwards.
    fn await_companions(&self) {
        let begin = Instant::now();
        while !self.is_shared_out() {
            assert!(
                begin.elapsed() < PATIENCE,
                "the partitions are not shared out: {}",
                self.words()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_shared_out(&self) -> bool {
        let instances = self.companions.len() + 1;
        let all = self.companions.iter().chain([self]);
        self.companions.is_empty()
            || all.clone().all(|node| {
                let asked = Http::connect(node.address);
                let Ok(cluster) = asked.and_then(|mut http| http.get("/v1/cluster")) else {
                    return false;
                };
                let cluster = cluster.json();
                // One that the others have given up says so instead, and joins anew.
                let Some(places) = cluster["partitions"].as_array() else {
                    return false;
                };
                let holders: std::collections::BTreeSet<_> = places
                    .iter()
                    .filter_map(|place| place["holder"].as_str())
                    .collect();
                let settled = places
                    .iter()
                    .all(|place| place["holder"] == place["assigned"]);
                let ready = Http::connect(node.address).and_then(|mut http| http.get("/readyz"));
                settled
                    && holders.len() == instances
                    && ready.is_ok_and(|answer| answer.status() == 200)
            })
    }

    /// Starts a stopped or killed node on the same directory and returns when it is ready.
    pub(crate) fn start_again(&mut self) {
        self.start_until("/readyz");
        let stopped = self
            .companions
            .iter_mut()
            .filter(|node| node.child.is_none());
        stopped.for_each(Node::start_again);
        self.await_companions();
    }

    /// Starts it and returns when that path answers 200.
    pub(crate) fn start_until(&mut self, path: &str) {
        assert!(self.child.is_none(), "the node runs already");
        self.said.lock().unwrap().clear();
        let mut child = command()
            .arg("serve")
            .arg("--data")
            .arg(&self.dir)
            .args(["--listen", &format!("127.0.0.1:{}", self.setup.port)])
            .args(&self.setup.args)
            .args(&self.on_kafka)
            .envs(self.setup.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.listen_to(child.stdout.take().unwrap());
        self.listen_to(child.stderr.take().unwrap());
        self.child = Some(child);
        let begin = Instant::now();
        loop {
            if let Some(address) = self.said.lock().unwrap().iter().find_map(|l| address_in(l)) {
                self.address = address;
                break;
            }
            self.must_live("before it said where it listens");
            assert!(
                begin.elapsed() < PATIENCE,
                "no address from the node: {}",
                self.words()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        loop {
            let ready = Http::connect(self.address).and_then(|mut http| http.get(path));
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            self.must_live("before it was ready");
            assert!(
                begin.elapsed() < PATIENCE,
                "the node is not ready: {}",
                self.words()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn listen_to(&self, pipe: impl Read + Send + 'static) {
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                said.lock().unwrap().push(line);
            }
        });
    }

    fn must_live(&mut self, when: &str) {
        let ended = self
            .child
            .as_mut()
            .and_then(|child| child.try_wait().unwrap());
        if let Some(status) = ended {
            panic!("the node ended ({status}) {when}: {}", self.words());
        }
    }

    /// Everything the node said since its last start.
    pub(crate) fn words(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Where it listens, or one of its companions: another one each time.
    pub(crate) fn address(&self) -> SocketAddr {
        let companions = self.companions.iter().filter(|node| node.child.is_some());
        let mut running: Vec<SocketAddr> = companions.map(|node| node.address).collect();
        if self.child.is_some() || running.is_empty() {
            running.push(self.address);
        }
        running[self.turn.fetch_add(1, Ordering::Relaxed) % running.len()]
    }

    /// The words that name its log on Kafka, for other instances on it.
    pub(crate) fn log(&self) -> Vec<String> {
        self.on_kafka.clone()
    }

    /// Stops the process where it is (SIGSTOP), or lets it go on (SIGCONT).
    pub(crate) fn pause(&self, paused: bool) {
        let child = self.child.as_ref().expect("the node runs");
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a topic of its log is called on the brokers.
    pub(crate) fn topic_on_kafka(&self, name: &str) -> String {
        let mut args = self.on_kafka.iter();
        let prefix = args.find_map(|arg| arg.strip_prefix("--kafka-prefix="));
        format!("{}{name}", prefix.expect("the node runs on Kafka"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    pub(crate) fn http(&self) -> Http {
        Http::connect(self.address()).unwrap_or_else(|error| {
            panic!(
                "cannot connect to the node: {error}; it said: {}",
                self.words()
            )
        })
    }

    /// One `GET` on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.http().get(path).unwrap()
    }

    /// One `POST` of JSON on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.http().post(path, body).unwrap()
    }

    /// A command of the binary that talks to this node.
    pub(crate) fn onhand<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        finish(command().args(args).args(["--url", &self.url()]), PATIENCE)
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("VmRSS:"))
            .expect("a running process");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// True while the process is there.
    pub(crate) fn lives(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// `kill -9`, and the process is gone when this returns.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM); it must end by itself and well.
    pub(crate) fn stop(&mut self) {
        self.companions.iter_mut().for_each(Node::stop);
        self.terminate();
        let status = self.wait_for_end(PATIENCE);
        assert!(
            status.success(),
            "the node stopped with {status}: {}",
            self.words()
        );
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let child = self.child.as_ref().expect("the node runs");
        rustix::process::kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let Some(status) = ended(&mut child, within) else {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the node did not end within {within:?}: {}", self.words());
        };
        status
    }

    /// Stops it and checks everything it wrote.
    pub(crate) fn stop_and_verify(&mut self) -> Value {
        self.stop();
        self.verify_clean()
    }

    /// Checks everything that a stopped or killed node wrote; it must be clean.
    pub(crate) fn verify_clean(&self) -> Value {
        if self.on_kafka.is_empty() {
            return verify_clean(&self.dir);
        }
        verified(
            command()
                .args(["verify", "-o", "json"])
                .args(&self.on_kafka),
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the node said:\n{}", self.words());
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended meanwhile; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The address in a line such as `listening on http://127.0.0.1:7171`.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("listening on http://")?.parse().ok()
}
