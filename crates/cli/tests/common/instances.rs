//! Several instances on one cluster, the brokers below them, and a load at random instances whose every
//! command is sent until somebody answers it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::feed::{Form, Since, ask};
use super::http::Http;
use super::node::{Node, Setup, finish, kafka, said};
use super::stock::{Levels, encode, fact, judged, levels, line};
use super::views::await_published;
use super::{PATIENCE, Rng, until};

const PARTITIONS: u64 = 8;

/// Instances on one log. Each has a name, a directory and a port of its own, and keeps them.
pub(crate) struct Instances {
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: Vec<String>,
    addresses: Vec<SocketAddr>,
}

impl Instances {
    /// That many, started one after another, with all partitions shared out between them; `None`, and
    /// said so, without brokers.
    pub(crate) fn start(count: usize) -> Option<Instances> {
        Instances::start_with(count, &[])
    }

    /// The same, each told this too.
    pub(crate) fn start_with(count: usize, more: &[&str]) -> Option<Instances> {
        if kafka().is_none() {
            println!("skipped: ONHAND_TEST_KAFKA names no brokers");
            return None;
        }
        let mut nodes: Vec<Node> = Vec::new();
        let names: Vec<String> = ["a", "b", "c", "d"][..count]
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        for name in &names {
            nodes.push(Node::start(Setup {
                args: ["--instance", name, "--partitions", &PARTITIONS.to_string()]
                    .iter()
                    .chain(more)
                    .map(|word| (*word).to_owned())
                    .collect(),
                port: port(),
                log: nodes.first().map(Node::log),
                ..Setup::default()
            }));
        }
        let instances = Instances {
            addresses: nodes.iter().map(Node::address).collect(),
            names,
            nodes,
        };
        let all: Vec<usize> = (0..count).collect();
        instances.await_shared(&all);
        Some(instances)
    }

    /// Where all of them listen, whether they run or not.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Who holds each partition, by name, as that instance knows it; `None` where it does not answer or
    /// something is not where it is assigned.
    pub(crate) fn holders(&self, asked: usize) -> Option<BTreeMap<u64, String>> {
        let answer = Http::connect(self.addresses[asked])
            .and_then(|mut http| http.get("/v1/cluster"))
            .ok()
            .filter(|answer| answer.status() == 200)?;
        let mut holders = BTreeMap::new();
        for place in answer.json()["partitions"].as_array()? {
            let holder = place["holder"].as_str()?;
            if place["assigned"].as_str() != Some(holder) {
                return None;
            }
            holders.insert(place["partition"].as_u64()?, holder.to_owned());
        }
        Some(holders)
    }

    /// By partition, the names of its standbys as that instance knows them.
    pub(crate) fn standbys(&self, asked: usize) -> BTreeMap<u64, Vec<String>> {
        let cluster = self.nodes[asked].get("/v1/cluster").json();
        let places = cluster["partitions"].as_array().unwrap().iter();
        let names = |place: &Value| {
            let names = place["standbys"].as_array().unwrap().iter();
            names
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        places
            .map(|place| (place["partition"].as_u64().unwrap(), names(place)))
            .collect()
    }

    /// Waits until each of these follows what it shall, and has been level.
    pub(crate) fn await_warm(&self, of: &[usize]) {
        let is_warm = |at: usize| {
            let cluster = self.nodes[at].get("/v1/cluster").json();
            let name = json!(self.names[at]);
            let mut places = cluster["partitions"].as_array().unwrap().iter();
            places.all(|place| {
                let follows = place["standbys"].as_array().unwrap().contains(&name);
                place["standby_here"]["stale_ms"].is_u64() == follows
            })
        };
        until("the standbys are warm", || {
            of.iter().all(|at| is_warm(*at)).then_some(())
        });
    }

    /// A figure of one instance.
    pub(crate) fn metric(&self, at: usize, name: &str) -> u64 {
        let answer = self.nodes[at].get("/metrics");
        let text = answer.text();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{name} in {text}"));
        value.parse().unwrap()
    }

    /// Waits until exactly these hold everything, evenly, and answer for it; gives how long that took.
    pub(crate) fn await_shared(&self, of: &[usize]) -> Duration {
        let begin = Instant::now();
        until("the partitions are shared out", || {
            of.iter().all(|asked| self.shares(*asked, of)).then_some(())
        });
        begin.elapsed()
    }

    fn shares(&self, asked: usize, of: &[usize]) -> bool {
        let Some(holders) = self.holders(asked) else {
            return false;
        };
        let count = |at: usize| {
            holders
                .values()
                .filter(|name| **name == self.names[at])
                .count()
        };
        let counts: Vec<usize> = of.iter().map(|at| count(*at)).collect();
        let even = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1;
        even && counts.iter().sum::<usize>() == holders.len()
    }

    /// The runs of all members, as that one knows them: who was given up has another one.
    pub(crate) fn runs(&self, asked: usize) -> Vec<String> {
        let answer = Http::connect(self.addresses[asked])
            .and_then(|mut http| http.get("/v1/cluster"))
            .unwrap();
        let members = answer.json()["members"].as_array().unwrap().clone();
        let run = |member: &Value| member["incarnation"].as_str().unwrap().to_owned();
        members.iter().map(run).collect()
    }

    /// How many partitions that one holds, as `asked` knows it.
    pub(crate) fn held(&self, asked: usize, by: usize) -> usize {
        let holders = self.holders(asked).unwrap_or_default();
        holders
            .values()
            .filter(|name| **name == self.names[by])
            .count()
    }

    pub(crate) fn stop_and_verify(&mut self) -> Value {
        for node in &mut self.nodes {
            node.stop();
        }
        self.nodes[0].verify_clean()
    }
}

/// A port that nobody else of this process gets.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let at = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = 20_000 + u64::from(std::process::id()) * 37 % 11_000;
        let port = u16::try_from(first + at).expect("ports below 32,000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The brokers that `ONHAND_TEST_KAFKA_DIR` describes, which a test may harm.
pub(crate) struct Brokers(PathBuf);

impl Brokers {
    /// `None`, and said so, where the cluster is not the tests' own.
    pub(crate) fn ours() -> Option<Brokers> {
        let Some(dir) = std::env::var_os("ONHAND_TEST_KAFKA_DIR") else {
            println!("skipped: ONHAND_TEST_KAFKA_DIR names no brokers that a test may harm");
            return None;
        };
        Some(Brokers(dir.into()))
    }

    pub(crate) fn count(&self) -> u16 {
        let state = self.state();
        u16::try_from(state["nodes"].as_array().expect("nodes").len()).unwrap()
    }

    fn state(&self) -> Value {
        let text = std::fs::read_to_string(self.0.join("brokers.json")).expect("brokers.json");
        serde_json::from_str(&text).expect("it is JSON")
    }

    /// The node numbers.
    pub(crate) fn all(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.count()
    }

    /// Runs one of Kafka's own programs to its end and gives what it printed.
    pub(crate) fn tool(&self, class: &str, args: &[&str]) -> String {
        let state = self.state();
        let text = |name: &str| state[name].as_str().unwrap().to_owned();
        let mut command = Command::new("java");
        command
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"])
            .arg(format!("{}/*", text("jars")))
            .args([class, "--bootstrap-server", &text("bootstrap")])
            .args(args)
            .stdin(std::process::Stdio::null());
        let output = finish(&mut command, PATIENCE);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The node that coordinates most of the transactional ids with that prefix.
    pub(crate) fn coordinator(&self, prefix: &str) -> u16 {
        let class = "org.apache.kafka.tools.TransactionsCommand";
        let listed = self.tool(class, &["list"]);
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        for line in listed.lines().filter(|line| line.starts_with(prefix)) {
            let node = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            *counts.entry(node).or_default() += 1;
        }
        let most = counts.iter().max_by_key(|(_, count)| **count);
        *most.unwrap_or_else(|| panic!("no ids: {listed}")).0
    }

    /// Sends a signal to node 1, 2 or 3.
    pub(crate) fn signal(&self, node: u16, signal: &str) {
        let pid = self.state()["nodes"][usize::from(node) - 1]["pid"].to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.expect("kill exists").success());
    }

    /// Starts a killed node again and waits until it answers.
    pub(crate) fn restart(&self, node: u16) {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kafka/brokers.py");
        let status = Command::new("python3")
            .arg(tool)
            .arg("node")
            .arg(&self.0)
            .arg(node.to_string())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("python3 exists").success());
    }
}

const TILLS: u64 = 3;
const FILES: u64 = 1;
const SHOPS: u64 = 3;
const FILE_LINES: u64 = 100;
const SKUS: u64 = 20;
/// What shops fight for, and how much of each there is.
const SCARCE: [&str; 4] = ["scarce-a", "scarce-b", "scarce-c", "scarce-d"];
const SCARCE_UNITS: i64 = 40;
/// One try's longest wait for a command. An instance that stands still holds whoever asks it that long.
pub(super) const TRY_MAX: Duration = Duration::from_secs(5);
/// The same for a stream of many.
const STREAM_MAX: Duration = Duration::from_secs(20);
/// The longest that a command may go unanswered, all its tries together.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// What the clients were told, all together.
#[derive(Default, Debug)]
pub(crate) struct Told {
    /// Units brought in, by SKU, acknowledged.
    brought: BTreeMap<String, i64>,
    /// Units held for baskets that shops were granted and have not given back, by SKU.
    held: BTreeMap<String, i64>,
    pub(crate) facts: u64,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    /// Tries without an answer.
    pub(crate) again: u64,
    /// Of those, what turned out to have been written.
    pub(crate) rescued: u64,
    /// The longest that one command went unanswered.
    pub(crate) longest: Duration,
}

/// Clients that send at random instances until told to stop, and readers of every instance's feed.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
    readers: Vec<(Arc<Reader>, JoinHandle<()>)>,
}

/// One client.
pub(super) struct Client {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rng: Rng,
    pub(super) kept: Option<(usize, Http)>,
    pub(super) told: Arc<Mutex<Told>>,
    pub(super) answers: Arc<AtomicU64>,
}

impl Load {
    /// Stocks up and starts. Every reader begins at the beginning of the log.
    pub(crate) fn start(instances: &Instances, rng: &mut Rng) -> Load {
        let addresses = instances.addresses();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Mutex::new(Told::default()));
        let answers = Arc::new(AtomicU64::new(0));
        let client = |name: String, rng: &mut Rng| Client {
            name,
            addresses: addresses.clone(),
            rng: rng.fork(),
            kept: None,
            told: Arc::clone(&told),
            answers: Arc::clone(&answers),
        };
        let mut dock = client("dock".to_owned(), rng);
        for sku in SCARCE {
            let body = fact("receive", "dock", sku, sku, SCARCE_UNITS);
            let answer = dock.until_answered("/v1/commands", &body);
            assert_eq!(judged(&answer), "applied", "{answer}");
        }
        let mut clients = Vec::new();
        let mut spawn = |mut client: Client, work: fn(&mut Client, u64)| {
            let stop = Arc::clone(&stop);
            clients.push(std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    work(&mut client, number);
                }
            }));
        };
        for n in 0..TILLS {
            spawn(client(format!("till-{n}"), rng), Client::bring_one);
        }
        for n in 0..FILES {
            spawn(client(format!("file-{n}"), rng), Client::bring_many);
        }
        for n in 0..SHOPS {
            spawn(client(format!("shop-{n}"), rng), Client::basket);
        }
        let readers = (0..addresses.len())
            .map(|first| {
                let reader = Arc::new(Reader::default());
                let (addresses, reading, rng) =
                    (addresses.clone(), Arc::clone(&reader), rng.fork());
                let thread = std::thread::spawn(move || reading.read(&addresses, first, rng));
                (reader, thread)
            })
            .collect();
        Load {
            stop,
            told,
            answers,
            clients,
            readers,
        }
    }

    /// Commands answered so far.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits until that many more commands were answered.
    pub(crate) fn await_answers(&self, more: u64) {
        let wanted = self.answers() + more;
        until("commands are answered", || {
            self.must_live();
            (self.answers() >= wanted).then_some(())
        });
    }

    /// Fails where a client or reader has failed.
    fn must_live(&self) {
        let dead = self.clients.iter().any(JoinHandle::is_finished)
            || self.readers.iter().any(|(_, thread)| thread.is_finished());
        assert!(!dead, "a client or a reader has failed, see above");
    }

    /// Lets every client finish what it is at, and holds all that they were told against the levels and
    /// the feeds.
    pub(crate) fn finish(self, instances: &Instances) -> Told {
        self.must_live();
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client failed, see above");
        }
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let mut seen = Vec::new();
        for address in &instances.addresses {
            let mut http = Http::connect(*address).unwrap();
            seen.push(levels(&mut http));
        }
        for (levels, name) in seen.iter().zip(&instances.names) {
            check_levels(levels, &told, name);
        }
        let mut http = Http::connect(instances.addresses[0]).unwrap();
        await_published(&mut http, PARTITIONS, &seen[0]);
        for (reader, thread) in self.readers {
            reader.await_all(&seen[0]);
            reader.stop.store(true, Ordering::Relaxed);
            thread.join().expect("a reader failed, see above");
        }
        told
    }
}

/// What the clients were told is what is there.
fn check_levels(levels: &Levels, told: &Told, at: &str) {
    let level = |sku: &str| levels.get(&(sku.to_owned(), "main".to_owned()));
    for (sku, units) in &told.brought {
        let there = level(sku).map_or(0, |level| level.on_hand);
        assert_eq!(there, *units, "{sku} at {at}: acknowledged and on hand");
    }
    for sku in SCARCE {
        let level = level(sku).unwrap_or_else(|| panic!("{sku} at {at}"));
        let held = told.held.get(sku).copied().unwrap_or_default();
        assert_eq!(
            (
                level.on_hand,
                level.reserved + level.committed,
                level.available
            ),
            (SCARCE_UNITS, held, SCARCE_UNITS - held),
            "{sku} at {at}: {level:?}"
        );
        assert!(level.available >= 0, "oversold at {at}: {level:?}");
    }
}

impl Client {
    /// A connection to a random instance, whose answers are waited for that long; the last one half of
    /// the time.
    fn connect(&mut self, wait: Duration) -> Option<(usize, Http)> {
        if let Some(kept) = self.kept.take()
            && self.rng.percent(50)
        {
            return Some(kept);
        }
        let at = self.rng.index(self.addresses.len());
        let mut http = Http::connect(self.addresses[at]).ok()?;
        http.stream().set_read_timeout(Some(wait)).unwrap();
        Some((at, http))
    }

    fn told<R>(&self, tell: impl FnOnce(&mut Told) -> R) -> R {
        tell(&mut self.told.lock().unwrap())
    }

    /// Sends it until it is answered by an outcome.
    pub(super) fn until_answered(&mut self, path: &str, body: &Value) -> Value {
        let begin = Instant::now();
        let mut last = String::new();
        loop {
            if let Some((at, mut http)) = self.connect(TRY_MAX) {
                match http.post(path, body) {
                    Ok(answer) if answer.status() < 500 && answer.status() != 429 => {
                        assert!(
                            matches!(answer.status(), 200 | 201 | 409),
                            "{path} {body}: {} {}",
                            answer.status(),
                            answer.text()
                        );
                        self.kept = Some((at, http));
                        self.answers.fetch_add(1, Ordering::Relaxed);
                        self.told(|told| told.longest = told.longest.max(begin.elapsed()));
                        return outcome(&answer.json());
                    }
                    Ok(answer) => last = answer.text(),
                    Err(error) => last = format!("{}: {error}", self.addresses[at]),
                }
            }
            self.wait(begin, &last);
        }
    }

    fn wait(&self, begin: Instant, last: &str) {
        self.told(|told| told.again += 1);
        assert!(
            begin.elapsed() < ANSWER_MAX,
            "{} waited {ANSWER_MAX:?} for an answer; the last was: {last}",
            self.name
        );
        std::thread::sleep(Duration::from_millis(20));
    }

    fn bring_one(&mut self, number: u64) {
        let sku = format!("sku-{:02}", self.rng.below(SKUS));
        let units = i64::try_from(self.rng.within(1, 6)).unwrap();
        let body = fact("receive", &self.name, &number.to_string(), &sku, units);
        let outcome = self.until_answered("/v1/commands", &body);
        assert_eq!(judged(&outcome), "applied", "{outcome}");
        self.brought(&outcome, &sku, units);
    }

    fn brought(&self, outcome: &Value, sku: &str, units: i64) {
        let rescued = outcome["status"] == "duplicate";
        self.told(|told| {
            told.facts += 1;
            told.rescued += u64::from(rescued);
            *told.brought.entry(sku.to_owned()).or_default() += units;
        });
    }

    /// A stream of lines, whole again until its totals came.
    fn bring_many(&mut self, number: u64) {
        let facts: Vec<(String, i64)> = (0..FILE_LINES)
            .map(|_| {
                let units = i64::try_from(self.rng.within(1, 6)).unwrap();
                (format!("sku-{:02}", self.rng.below(SKUS)), units)
            })
            .collect();
        let body: String = (1..)
            .zip(&facts)
            .map(|(n, (sku, units))| {
                line("receive", &self.name, &format!("{number}-{n}"), sku, *units)
            })
            .collect();
        let begin = Instant::now();
        let mut last = String::new();
        loop {
            if let Some((at, mut http)) = self.connect(STREAM_MAX) {
                match http.bulk("", &body) {
                    Ok(answer) if answer.status() == 200 => {
                        let lines = answer.lines();
                        let complete = lines.last().is_some_and(|l| l.get("totals").is_some());
                        if complete {
                            assert_eq!(lines.len(), facts.len() + 1, "an outcome for each line");
                            for (outcome, (sku, units)) in lines.iter().zip(&facts) {
                                assert_eq!(judged(outcome), "applied", "{outcome}");
                                self.brought(outcome, sku, *units);
                            }
                            self.kept = Some((at, http));
                            self.answers.fetch_add(FILE_LINES, Ordering::Relaxed);
                            self.told(|told| told.longest = told.longest.max(begin.elapsed()));
                            // Leaves the machine to the others.
                            std::thread::sleep(Duration::from_millis(50));
                            return;
                        }
                        last = lines.last().map(Value::to_string).unwrap_or_default();
                    }
                    Ok(answer) => {
                        assert!(answer.status() >= 429, "{}", answer.text());
                        last = answer.text();
                    }
                    Err(error) => last = format!("{}: {error}", self.addresses[at]),
                }
            }
            self.wait(begin, &last);
        }
    }

    /// Reserves two articles, and mostly gives them back; every tenth is kept and confirmed.
    fn basket(&mut self, number: u64) {
        let first = self.rng.index(SCARCE.len());
        let second = (first + 1 + self.rng.index(SCARCE.len() - 1)) % SCARCE.len();
        let lines = [(SCARCE[first], self.rng.within(1, 4)), (SCARCE[second], 1)];
        let name = format!("{}-{number}", self.name);
        let body = json!({
            "source": self.name, "id": format!("{number}-reserve"), "reservation": name, "ttl_s": 3_600,
            "lines": lines.map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity, "location": "main"})),
        });
        let outcome = self.until_answered("/v1/reservations", &body);
        match judged(&outcome) {
            "granted" => {}
            "rejected" => return self.told(|told| told.refused += 1),
            other => panic!("a basket ended as {other}: {outcome}"),
        }
        self.hold(&lines, 1);
        self.told(|told| told.granted += 1);
        let step = if self.rng.percent(10) {
            "confirm"
        } else {
            "release"
        };
        let path = format!("/v1/reservations/{}/{step}", encode(&name));
        let body = json!({"source": self.name, "id": format!("{number}-{step}")});
        let outcome = self.until_answered(&path, &body);
        assert_eq!(judged(&outcome), "applied", "{step} of {name}: {outcome}");
        if step == "release" {
            self.hold(&lines, -1);
        }
    }

    fn hold(&self, lines: &[(&str, u64)], sign: i64) {
        self.told(|told| {
            for (sku, units) in lines {
                let held = told.held.entry((*sku).to_owned()).or_default();
                *held += sign * i64::try_from(*units).unwrap();
            }
        });
    }
}

/// An answer's outcome: a problem of a refused request has it in `outcome`.
fn outcome(body: &Value) -> Value {
    let mut outcome = body.clone();
    if let Some(word) = body.get("outcome") {
        outcome["status"] = word.clone();
    }
    outcome
}

/// A reader of the feed that goes on at any instance after its last position.
#[derive(Default)]
pub(crate) struct Reader {
    stop: AtomicBool,
    /// The newest sequence by (SKU, location), each one above the one before.
    newest: Mutex<BTreeMap<(String, String), u64>>,
}

impl Reader {
    fn read(&self, addresses: &[SocketAddr], first: usize, mut rng: Rng) {
        let mut since = Since::Earliest;
        let mut at = first;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(position) = self.read_at(addresses[at], &since) {
                since = Since::Position(position);
            }
            at = rng.index(addresses.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads until the connection breaks; gives the last position seen.
    fn read_at(&self, address: SocketAddr, since: &Since) -> Option<String> {
        let (http, head) = ask(address, Form::Ndjson, since, "").ok()?;
        if head.status != 200 {
            // Nobody answers for some partition at the moment; a position is never gone here.
            assert!(head.status >= 429, "the feed answers {head:?}");
            return None;
        }
        let mut connection = super::feed::Connection::of(http, &head, Form::Ndjson);
        let short = Some(Duration::from_secs(2));
        connection.stream().set_read_timeout(short).unwrap();
        let mut position = None;
        // Ends by the stop, a broken connection or a read that waited in vain.
        let _ = connection.read(|event| {
            if event.is_change() {
                let text = |name: &str| event.data[name].as_str().unwrap().to_owned();
                let key = (text("sku"), text("location"));
                let sequence = event.data["sequence"].as_u64().unwrap();
                let mut newest = self.newest.lock().unwrap();
                let last = newest.insert(key.clone(), sequence).unwrap_or(0);
                assert_eq!(
                    sequence,
                    last + 1,
                    "{key:?}: a gap or a repeat at {address}"
                );
            }
            if event.position.is_some() {
                position.clone_from(&event.position);
            }
            !self.stop.load(Ordering::Relaxed)
        });
        position
    }

    /// Waits until it has seen the newest change of every level.
    fn await_all(&self, levels: &Levels) {
        let begin = Instant::now();
        loop {
            let behind = {
                let newest = self.newest.lock().unwrap();
                let mut all = levels.iter();
                all.find(|(key, level)| newest.get(*key) != Some(&level.sequence))
                    .map(|(key, level)| (key.clone(), level.sequence, newest.get(key).copied()))
            };
            let Some(behind) = behind else { return };
            assert!(
                begin.elapsed() < PATIENCE,
                "a feed stays behind: {behind:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
