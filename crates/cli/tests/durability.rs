//! Promise: nothing leaves the node before the sync that covers it: no answer to a command, no
//! outcome of a stream, no change on the feed, no reading of the new level. When a sync fails,
//! nothing more is acknowledged and the process ends; what was acknowledged is there after it.
//!
//! The failure it retells: a database that calls itself durable, acknowledges from memory, and
//! forgets the last second at a power cut; and one that retries a failed sync, is told "done" by a
//! kernel that has thrown the pages away, and goes on.
//!
//! A small library stands between the real binary and the operating system and notes when which
//! command was written and synced (`shim/sync.c`). That the tests bite is shown by running them
//! against `--durability os`, where the node does not wait for the disk: there they must object.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::feed::{Form, Since, open};
use common::http::{Http, JSON, NDJSON};
use common::node::{Node, Setup, verify_clean};
use common::stock::{fact, judged, level, levels, line};
use common::{PATIENCE, until};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// A command's text stands in the command and in its decision; both must be on the disk.
const OCCURRENCES: usize = 2;

/// The clock that the shim's log uses, ns.
fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// An id that the shim finds again in what is written.
fn mark(client: u64, number: u64) -> String {
    assert!(client < 100 && number < 100_000, "seven digits");
    format!("MARK-{client:02}{number:05}")
}

/// The library, and the folder through which it is steered.
struct Shim {
    dir: tempfile::TempDir,
}

impl Shim {
    fn build() -> Option<Shim> {
        let dir = tempfile::Builder::new()
            .prefix("onhand-shim-")
            .tempdir()
            .unwrap();
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/shim/sync.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.path().join("sync.so"))
            .arg(&source)
            .arg("-ldl")
            .output();
        match built {
            Err(_) => {
                println!("skipped: needs a C compiler; {compiler:?} is not installed");
                None
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "the shim does not compile: {said}");
                Some(Shim { dir })
            }
        }
    }

    fn setup(&self, args: &[&str]) -> Setup {
        let data = self.dir.path().join("data");
        let text = |path: PathBuf| path.display().to_string();
        Setup {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![
                (
                    "LD_PRELOAD".to_owned(),
                    text(self.dir.path().join("sync.so")),
                ),
                ("SHIM_DIR".to_owned(), text(self.dir.path().to_owned())),
                ("SHIM_DATA".to_owned(), text(data.clone())),
            ],
            dir: Some(data),
            ..Setup::default()
        }
    }

    fn set(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    fn clear(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn is_set(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    fn log(&self) -> Log {
        let text = std::fs::read_to_string(self.dir.path().join("log")).expect("the shim's log");
        Log::parse(&text)
    }
}

/// What was written and synced, and when.
#[derive(Default)]
struct Log {
    /// By marker: when and to which file.
    writes: BTreeMap<String, Vec<(i64, u64)>>,
    syncs: Vec<Sync>,
}

struct Sync {
    inode: u64,
    begin: i64,
    /// When it returned, and whether it had done its work.
    end: Option<(i64, bool)>,
}

impl Log {
    fn parse(text: &str) -> Log {
        let mut log = Log::default();
        let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let time = words[1].parse::<i64>().unwrap();
            match words[0] {
                "W" => log
                    .writes
                    .entry(words[3].to_owned())
                    .or_default()
                    .push((time, number(2))),
                "B" => {
                    numbers.insert(number(3), log.syncs.len());
                    log.syncs.push(Sync {
                        inode: number(2),
                        begin: time,
                        end: None,
                    });
                }
                "E" => {
                    let at = numbers[&number(3)];
                    log.syncs[at].end = Some((time, words[4] == "0"));
                }
                other => panic!("the shim's log has {other:?}"),
            }
        }
        log
    }

    /// How often the marker was on the disk at that time.
    fn covered(&self, marker: &str, by: i64) -> usize {
        let writes = self.writes.get(marker).map_or(&[][..], Vec::as_slice);
        writes
            .iter()
            .filter(|(written, inode)| {
                self.syncs.iter().any(|sync| {
                    sync.inode == *inode
                        && sync.begin >= *written
                        && sync.end.is_some_and(|(end, done)| done && end <= by)
                })
            })
            .count()
    }
}

/// Something that left the node and speaks of a command.
#[derive(Debug, Clone)]
struct Arrival {
    what: &'static str,
    marker: String,
    at: i64,
}

/// Everything that left the node before what it speaks of was on the disk.
fn early(log: &Log, arrivals: &[Arrival]) -> Vec<Arrival> {
    let too_soon = |arrival: &&Arrival| log.covered(&arrival.marker, arrival.at) < OCCURRENCES;
    arrivals.iter().filter(too_soon).cloned().collect()
}

fn by_kind(arrivals: &[Arrival]) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for arrival in arrivals {
        *kinds.entry(arrival.what).or_default() += 1;
    }
    kinds
}

const COUNTED: u64 = 40;
const SINGLE_CLIENTS: u64 = 5;
const COMMANDS: u64 = 25;
const BULK_REQUESTS: u64 = 6;
const BULK_LINES: u64 = 60;
const BASKETS: u64 = 12;

/// Every kind of client at once beside slow syncs; what reached them, and when.
fn work(node: &Node) -> Vec<Arrival> {
    let address = node.address();
    let arrivals = Mutex::new(Vec::new());
    let note = |what: &'static str, marker: String| {
        let at = now();
        arrivals.lock().unwrap().push(Arrival { what, marker, at });
    };
    for held in ["held-a", "held-b"] {
        let answer = node.post("/v1/commands", &fact("receive", "dock", held, held, 1_000));
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for client in 0..SINGLE_CLIENTS {
            let note = &note;
            writers.push(scope.spawn(move || {
                let mut http = Http::connect(address).unwrap();
                for n in 0..COMMANDS {
                    let id = mark(client, n);
                    let body = fact("receive", "till", &id, &format!("sku-{}", n % 7), 1);
                    let answer = http.post("/v1/commands", &body).unwrap();
                    note("answer", id);
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                }
            }));
        }
        writers.push(scope.spawn(|| bulk(address, &note)));
        writers.push(scope.spawn(|| baskets(address, &note)));
        // One SKU that rises by one per command, so that a reading of it says how far it is.
        writers.push(scope.spawn(|| {
            let mut http = Http::connect(address).unwrap();
            for n in 1..=COUNTED {
                let body = fact("receive", "counter", &mark(90, n), "counted", 1);
                assert_eq!(http.post("/v1/commands", &body).unwrap().status(), 200);
            }
        }));
        scope.spawn(|| {
            let mut http = Http::connect(address).unwrap();
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let answer = http.get("/v1/stock/counted/main").unwrap();
                let at = now();
                let on_hand = answer.json()["on_hand"].as_u64().unwrap_or_default();
                if on_hand > seen {
                    seen = on_hand;
                    let marker = mark(90, on_hand);
                    arrivals.lock().unwrap().push(Arrival {
                        what: "level",
                        marker,
                        at,
                    });
                }
            }
        });
        scope.spawn(|| {
            let mut feed = open(address, Form::Sse, &Since::Earliest, "").unwrap();
            let total = SINGLE_CLIENTS * COMMANDS + BULK_REQUESTS * BULK_LINES + COUNTED;
            let mut seen = 0;
            feed.read(|event| {
                let id = event.data["cause"]["id"].as_str().unwrap_or_default();
                if event.is_change()
                    && id.starts_with("MARK-")
                    && event.data["cause"]["type"] == "receive"
                {
                    note("change", id.to_owned());
                    seen += 1;
                }
                // A heartbeat after the last answer: what has not come by then does not come.
                let quiet = event.name == "heartbeat" && done.load(Ordering::Relaxed);
                seen < total && !quiet
            })
            .unwrap();
        });
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        for end in ends {
            end.unwrap();
        }
    });
    arrivals.into_inner().unwrap()
}

fn bulk(address: SocketAddr, note: &impl Fn(&'static str, String)) {
    let mut http = Http::connect(address).unwrap();
    for request in 0..BULK_REQUESTS {
        let lines: String = (0..BULK_LINES)
            .map(|n| {
                let id = mark(80, request * BULK_LINES + n);
                line("receive", "file", &id, &format!("sku-{}", n % 7), 1)
            })
            .collect();
        http.send("POST", "/v1/commands", NDJSON, lines.as_bytes())
            .unwrap();
        let head = http.head().unwrap();
        assert_eq!(head.status, 200);
        for text in BufReader::new(http.body(&head)).lines() {
            let outcome: Value = serde_json::from_str(&text.unwrap()).unwrap();
            if let Some(id) = outcome["id"].as_str() {
                note("outcome", id.to_owned());
            }
        }
    }
}

fn baskets(address: SocketAddr, note: &impl Fn(&'static str, String)) {
    let mut http = Http::connect(address).unwrap();
    for n in 0..BASKETS {
        let id = mark(70, n);
        let body = json!({
            "source": "shop", "id": id, "reservation": format!("basket-{n}"),
            "lines": [
                {"sku": "held-a", "quantity": 1, "location": "main"},
                {"sku": "held-b", "quantity": 1, "location": "main"},
            ],
        });
        let answer = http.post("/v1/reservations", &body).unwrap();
        note("reservation", id);
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
}

#[test]
fn nothing_leaves_before_the_sync_that_covers_it() {
    let Some(shim) = Shim::build() else { return };
    let mut node = Node::start(shim.setup(&[]));
    shim.set("delay", "12");
    let arrivals = work(&node);
    shim.clear("delay");
    let kinds = by_kind(&arrivals);
    println!("{kinds:?}");
    assert_eq!(
        kinds["answer"],
        usize::try_from(SINGLE_CLIENTS * COMMANDS).unwrap()
    );
    assert_eq!(
        kinds["outcome"],
        usize::try_from(BULK_REQUESTS * BULK_LINES).unwrap()
    );
    assert_eq!(kinds["reservation"], usize::try_from(BASKETS).unwrap());
    let changes = SINGLE_CLIENTS * COMMANDS + BULK_REQUESTS * BULK_LINES + COUNTED;
    assert_eq!(kinds["change"], usize::try_from(changes).unwrap());
    assert!(kinds["level"] > 1, "{kinds:?}");
    let early = early(&shim.log(), &arrivals);
    assert!(
        early.is_empty(),
        "{} left too early, such as {:?}",
        early.len(),
        early.first()
    );
    node.stop_and_verify();
}

#[test]
fn a_node_that_does_not_wait_for_the_disk_is_caught() {
    let Some(shim) = Shim::build() else { return };
    let node = Node::start(shim.setup(&["--durability", "os"]));
    shim.set("delay", "12");
    let arrivals = work(&node);
    let early = by_kind(&early(&shim.log(), &arrivals));
    let kinds: BTreeSet<&str> = early.keys().copied().collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["answer", "change", "level", "outcome", "reservation"]),
        "each kind of leaving too early is caught"
    );
}

/// Asks for everything while no sync returns; what arrived all the same.
fn while_held(shim: &Shim, node: &Node, waits_for_sync: bool) -> BTreeSet<&'static str> {
    const HELD_FOR: Duration = Duration::from_millis(400);
    let first = fact("receive", "dock", &mark(1, 0), "apple", 1);
    assert_eq!(node.post("/v1/commands", &first).status(), 200);
    let mut feed = open(node.address(), Form::Sse, &Since::Earliest, "").unwrap();
    shim.set("hold", "");
    let mut single = node.http();
    let body = fact("receive", "dock", &mark(1, 1), "apple", 10);
    single
        .send("POST", "/v1/commands", JSON, body.to_string().as_bytes())
        .unwrap();
    if waits_for_sync {
        until("a sync begins and is held", || {
            shim.log()
                .syncs
                .last()
                .is_some_and(|sync| sync.end.is_none())
                .then_some(())
        });
    }
    // These come while that sync is under way, which cannot cover them.
    let mut stream = node.http();
    let lines = line("receive", "dock", &mark(1, 2), "apple", 100);
    stream
        .send("POST", "/v1/commands", NDJSON, lines.as_bytes())
        .unwrap();
    let mut basket = node.http();
    let body = json!({
        "source": "shop", "id": mark(1, 3), "reservation": "basket",
        "lines": [{"sku": "apple", "quantity": 1, "location": "main"}],
    });
    basket
        .send(
            "POST",
            "/v1/reservations",
            JSON,
            body.to_string().as_bytes(),
        )
        .unwrap();
    let mut reader = node.http();

    let mut arrived = BTreeSet::new();
    for (what, http) in [
        ("answer", &mut single),
        ("reservation", &mut basket),
        ("level", &mut reader),
    ] {
        if what == "level" {
            // Only now, so that a node that does not wait has decided what was sent before.
            http.send("GET", "/v1/stock/apple/main", &[], b"").unwrap();
        }
        http.stream().set_read_timeout(Some(HELD_FOR)).unwrap();
        match http.answer() {
            // What was durable before may be read.
            Ok(answer) if what == "level" && answer.json()["on_hand"] == json!(1) => {}
            Ok(_) => {
                arrived.insert(what);
            }
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                );
            }
        }
        http.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    }
    // The head of a stream's answer may come early; an outcome may not.
    stream.stream().set_read_timeout(Some(HELD_FOR)).unwrap();
    if let Ok(head) = stream.head() {
        let mut text = String::new();
        if BufReader::new(stream.body(&head))
            .read_line(&mut text)
            .is_ok()
            && !text.is_empty()
        {
            arrived.insert("outcome");
        }
    }
    feed.stream().set_read_timeout(Some(HELD_FOR)).unwrap();
    // The first change was durable before; a timeout is what is hoped for after it.
    let _ = feed.read(|event| {
        let new = event.is_change() && event.data["sequence"] != json!(1);
        if new {
            arrived.insert("change");
        }
        !new
    });
    shim.clear("hold");
    arrived
}

#[test]
fn while_no_sync_returns_nothing_is_answered_and_then_all_is() {
    let Some(shim) = Shim::build() else { return };
    let mut node = Node::start(shim.setup(&[]));
    let arrived = while_held(&shim, &node, true);
    assert!(
        arrived.is_empty(),
        "arrived before any sync returned: {arrived:?}"
    );
    // Nothing was lost by the wait.
    until("all of it is applied", || {
        let apple = level(&mut node.http(), "apple");
        (apple.on_hand == 111 && apple.reserved == 1).then_some(())
    });
    node.stop_and_verify();
}

#[test]
fn without_waiting_for_the_disk_all_is_answered_while_held() {
    let Some(shim) = Shim::build() else { return };
    let node = Node::start(shim.setup(&["--durability", "os"]));
    let arrived = while_held(&shim, &node, false);
    assert_eq!(
        arrived,
        BTreeSet::from(["answer", "change", "level", "outcome", "reservation"]),
        "each kind of leaving too early is caught"
    );
}

#[test]
fn a_failed_sync_ends_the_process_and_nothing_more_is_acknowledged() {
    const CLIENTS: u64 = 6;
    /// Far more than a node answers between the failure and its end.
    const COMMANDS_MAX: u64 = 50_000;
    let Some(shim) = Shim::build() else { return };
    let mut setup = shim.setup(&[]);
    let mut node = Node::start(setup.clone());
    shim.set("delay", "3");
    let address = node.address();
    let acknowledged = AtomicU64::new(0);
    let sent: Vec<(Vec<Arrival>, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    let mut http = Http::connect(address).unwrap();
                    let mut arrivals = Vec::new();
                    for n in 0..COMMANDS_MAX {
                        let id = mark(client, n);
                        let body = fact("receive", "till", &id, &format!("sku-{client}"), 1);
                        match http.post("/v1/commands", &body) {
                            Ok(answer) if answer.status() == 200 => {
                                arrivals.push(Arrival {
                                    what: "answer",
                                    marker: id,
                                    at: now(),
                                });
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) => {
                                assert!(answer.status() >= 500, "{}", answer.text());
                                return (arrivals, n + 1);
                            }
                            Err(_) => return (arrivals, n + 1),
                        }
                    }
                    panic!("the node goes on after a failed sync");
                })
            })
            .collect();
        until("some are acknowledged", || {
            (acknowledged.load(Ordering::Relaxed) >= 60).then_some(())
        });
        shim.set("fail", "");
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let status = node.wait_for_end(PATIENCE);
    assert!(
        !status.success(),
        "the process says that something is wrong: {status}"
    );
    let words = node.words().to_lowercase();
    assert!(words.contains("sync"), "it says what failed: {words}");
    assert!(!shim.is_set("fail"), "a sync has failed");

    let log = shim.log();
    let failed = log
        .syncs
        .iter()
        .find(|sync| sync.end.is_some_and(|(_, done)| !done))
        .expect("a failed sync in the log");
    let retried = log
        .syncs
        .iter()
        .any(|sync| sync.inode == failed.inode && sync.begin > failed.begin);
    assert!(!retried, "a failed sync is not tried again");
    let arrivals: Vec<Arrival> = sent
        .iter()
        .flat_map(|(arrivals, _)| arrivals.clone())
        .collect();
    let early = early(&log, &arrivals);
    assert!(
        early.is_empty(),
        "{} acknowledged without a sync: {:?}",
        early.len(),
        early.first()
    );
    println!("{} acknowledged before the failure", arrivals.len());

    // Without the shim: all that was acknowledged is there, each once.
    let dir = node.dir().to_path_buf();
    verify_clean(&dir);
    setup.env.clear();
    let mut node = Node::start(setup);
    let mut http = node.http();
    for (client, (arrivals, sent)) in sent.iter().enumerate() {
        let sku = format!("sku-{client}");
        let there = level(&mut http, &sku).on_hand;
        let (least, most) = (arrivals.len(), usize::try_from(*sent).unwrap());
        assert!(
            (least..=most).contains(&usize::try_from(there).unwrap()),
            "{sku}: {there}"
        );
        for n in 0..*sent {
            let client = u64::try_from(client).unwrap();
            let body = fact("receive", "till", &mark(client, n), &sku, 1);
            let answer = http.post("/v1/commands", &body).unwrap();
            assert_eq!(judged(&answer.json()), "applied", "{}", answer.text());
            let known = n < u64::try_from(least).unwrap();
            assert!(
                !known || answer.json()["status"] == "duplicate",
                "{}",
                answer.text()
            );
        }
        assert_eq!(
            level(&mut http, &sku).on_hand,
            i64::try_from(*sent).unwrap()
        );
    }
    assert_eq!(levels(&mut http).len(), sent.len());
    node.stop_and_verify();
}
