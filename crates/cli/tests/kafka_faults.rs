//! Promise: brokers that are not there, topics that somebody deletes, records that nobody should have
//! written, and instances that come and go by a user's hand end in clear words or in nothing worse than a
//! wait; what was acknowledged is there, or nobody claims it.
//!
//! The failure it retells: a pod that started before its brokers crashed in a loop; a topic that somebody
//! deleted came back empty by itself, and the shop went on as if nothing had ever been sold.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::feed::{self, Form, Since};
use common::http::Http;
use common::instances::{Brokers, Instances, Load, port};
use common::node::{Node, Setup, command, finish, fresh_log_on_kafka, kafka, said};
use common::others::Others;
use common::stock::{fact, judged, level, levels};
use common::{PATIENCE, Rng, soak, until};
use serde_json::Value;

/// How much is answered before and after a blow.
const BETWEEN: u64 = 60;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends facts about many SKUs, so that every partition has some, until told to stop; gives the answers'
/// status codes in order, 0 where the connection broke.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u16>>,
}

impl Sender {
    fn start(address: SocketAddr, source: &str) -> Sender {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, source) = (Arc::clone(&stop), source.to_owned());
        let thread = std::thread::spawn(move || {
            let mut told = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let number = told.len();
                let sku = format!("sku-{:02}", number % 40);
                let body = fact("receive", &source, &number.to_string(), &sku, 1);
                let answer = Http::connect(address).and_then(|mut http| {
                    http.stream().set_read_timeout(Some(PATIENCE * 2))?;
                    http.post("/v1/commands", &body)
                });
                told.push(answer.map_or(0, |answer| answer.status()));
                if told.last() == Some(&0) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            told
        });
        Sender { stop, thread }
    }

    fn finish(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Passes every connection to that port on to a broker.
fn lead(port: u16, to: &str) {
    let to = to.to_owned();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming() {
            let (Ok(from), Ok(to)) = (from, TcpStream::connect(&to)) else {
                return;
            };
            let (mut back, mut answers) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            // Either side may break off at any time.
            std::thread::spawn(move || io::copy(&mut answers, &mut back).is_ok());
            let (mut from, mut to) = (from, to);
            std::thread::spawn(move || io::copy(&mut from, &mut to).is_ok());
        }
    });
}

/// Where nobody listens a start says whom it waits for and ends with code 3; brokers that come in time
/// are found.
#[test]
fn a_start_before_its_brokers_waits_and_says_so() {
    let Some(bootstrap) = kafka() else {
        println!("skipped: ONHAND_TEST_KAFKA names no brokers");
        return;
    };
    let nobody = format!("127.0.0.1:{}", port());
    let data = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = command();
        command.args(args).args(["--kafka", &nobody]);
        std::thread::spawn(move || {
            let begin = Instant::now();
            (finish(&mut command, PATIENCE), begin.elapsed())
        })
    };
    let dir = data.path().to_str().unwrap();
    let serve = ["serve", "--data", dir, "--listen", "127.0.0.1:0"];
    let serving = run(&[&serve[..], &["--kafka-wait", "0s"]].concat());
    let verifying = run(&["verify"]);

    let later = port();
    let mut log = fresh_log_on_kafka(&bootstrap);
    log[1] = format!("127.0.0.1:{later}");
    let broker = bootstrap.split(',').next().unwrap().to_owned();
    let door = std::thread::spawn(move || {
        // Longer than one try.
        std::thread::sleep(Duration::from_secs(13));
        lead(later, &broker);
    });
    let begin = Instant::now();
    let mut node = Node::start(Setup {
        log: Some(log),
        ..Setup::default()
    });
    println!("ready {:?} after a start without brokers", begin.elapsed());
    let words = node.words();
    assert!(
        words.contains("waiting for Kafka") && words.contains(&later.to_string()),
        "{words}"
    );
    door.join().unwrap();
    let body = fact("receive", "till", "1", "A", 1);
    assert_eq!(judged(&node.post("/v1/commands", &body).json()), "applied");
    node.stop();

    for (what, ended) in [("serve", serving), ("verify", verifying)] {
        let (output, took) = ended.join().unwrap();
        println!("{what} without brokers: {took:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(took < Duration::from_secs(40), "{took:?}");
        let words = stderr(&output);
        for word in [&*nobody, "no broker", "check that Kafka runs there"] {
            assert!(words.contains(word), "{word}: {words}");
        }
    }
}

/// All brokers stand still: whoever asks waits or is told to ask again, memory stays bounded, nobody is
/// given up, and it goes on with nothing lost.
#[test]
fn no_broker_for_a_while_costs_time_and_nothing_else() {
    let Some(brokers) = Brokers::ours() else {
        return;
    };
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let mut rng = Rng::seeded();
    let load = Load::start(&instances, &mut rng);
    load.await_answers(BETWEEN);
    let (runs, held) = (instances.runs(0), instances.holders(0));
    let memory =
        |instances: &Instances| -> Vec<u64> { instances.nodes.iter().map(Node::memory).collect() };
    let before = memory(&instances);
    let mut most = before.clone();
    brokers.all().for_each(|node| brokers.signal(node, "-STOP"));
    let begin = Instant::now();
    let address = instances.addresses()[0];
    let asked = std::thread::spawn(move || {
        let mut http = Http::connect(address).unwrap();
        http.stream().set_read_timeout(Some(PATIENCE * 3)).unwrap();
        let begin = Instant::now();
        let answer = http.post("/v1/commands", &fact("receive", "lone", "1", "lone", 1));
        (answer.unwrap().status(), begin.elapsed())
    });
    let still = Duration::from_secs(if soak() { 60 } else { 20 });
    while begin.elapsed() < still {
        for (most, now) in most.iter_mut().zip(memory(&instances)) {
            *most = now.max(*most);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    for address in instances.addresses() {
        let live = Http::connect(address).and_then(|mut http| http.get("/livez"));
        assert_eq!(live.unwrap().status(), 200);
    }
    assert_eq!(
        instances.runs(0),
        runs,
        "nobody is given up while no broker answers"
    );
    brokers.all().for_each(|node| brokers.signal(node, "-CONT"));
    let back = Instant::now();
    load.await_answers(BETWEEN);
    println!(
        "{BETWEEN} answers took {:?} after the brokers went on",
        back.elapsed()
    );
    let (status, took) = asked.join().unwrap();
    println!("a command sent meanwhile: {status} after {took:?}; memory {before:?} to {most:?}");
    assert!(matches!(status, 200 | 503), "{status}");
    // The longest that an answer is waited for is 60 s.
    assert!(took < Duration::from_secs(90), "{took:?}");
    for (before, most) in before.iter().zip(&most) {
        assert!(
            most - before < 128 << 20,
            "memory grew from {before} to {most}"
        );
    }
    instances.await_shared(&[0, 1]);
    // On a busy machine one may hear of the brokers' return seconds before the other one is heard again.
    match instances.runs(0) == runs {
        true => assert_eq!(instances.holders(0), held, "nothing moved"),
        false => println!("one was given up after the brokers went on, and joined anew"),
    }
    assert!(instances.nodes.iter_mut().all(Node::lives));
    // Baskets that waited for the brokers may all have been told that nobody answered.
    let told = load.finish(&instances);
    assert!(told.facts > 0);
    instances.stop_and_verify();
}

/// The broker that coordinates the instances' transactions dies in the middle of commits.
#[test]
fn a_coordinator_that_is_killed_loses_nothing() {
    let Some(brokers) = Brokers::ours().filter(|brokers| brokers.count() == 3) else {
        return;
    };
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let ids = instances.nodes[0].topic_on_kafka("onhand.");
    let mut rng = Rng::seeded();
    let load = Load::start(&instances, &mut rng);
    for _ in 0..if soak() { 20 } else { 1 } {
        load.await_answers(BETWEEN);
        let coordinator = brokers.coordinator(&ids);
        std::thread::sleep(rng.millis(0, 200));
        brokers.signal(coordinator, "-KILL");
        let begin = Instant::now();
        load.await_answers(BETWEEN);
        println!(
            "coordinator {coordinator} killed: {BETWEEN} answers took {:?}",
            begin.elapsed()
        );
        brokers.restart(coordinator);
    }
    let told = load.finish(&instances);
    println!(
        "coordinators killed: {} tries again, {} rescued",
        told.again, told.rescued
    );
    instances.stop_and_verify();
}

/// A topic that somebody deletes ends the instances with its name and what to do; it does not come back
/// by itself, and nobody claims what was in it.
#[test]
fn a_deleted_topic_ends_the_instances_and_is_named() {
    let Some(brokers) = Brokers::ours() else {
        return;
    };
    for (topic, count) in [("stock.changes", 1), ("stock.decisions", 2)] {
        let Some(mut instances) = Instances::start(count) else {
            return;
        };
        let name = instances.nodes[0].topic_on_kafka(topic);
        let senders: Vec<_> = (0..count)
            .map(|at| Sender::start(instances.addresses()[at], &instances.names[at]))
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let class = "org.apache.kafka.tools.TopicCommand";
        brokers.tool(class, &["--delete", "--topic", &name]);
        let begin = Instant::now();
        for node in &mut instances.nodes {
            let status = node.wait_for_end(PATIENCE);
            let words = node.words();
            println!(
                "{topic} deleted: ended with {status} after {:?}",
                begin.elapsed()
            );
            assert_eq!(status.code(), Some(1), "{words}");
            let last = words.lines().rfind(|line| line.starts_with("onhand: "));
            let last = last.unwrap_or_else(|| panic!("no last words: {words}"));
            for word in [&*name, "somebody deleted it", "kafka-topics.sh"] {
                assert!(last.contains(word), "{word}: {words}");
            }
        }
        for sender in senders {
            let told = sender.finish();
            let lost = told.iter().position(|status| *status != 200);
            let lost = lost.expect("it was told that something is wrong");
            if topic == "stock.decisions" {
                let claimed = told[lost..].contains(&200);
                assert!(!claimed, "acknowledged without the topic: {told:?}");
            }
        }
        let there = brokers.tool(class, &["--list"]);
        assert!(
            !there.lines().any(|line| line == name),
            "it came back: {there}"
        );
        let mut again = command();
        again
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(instances.nodes[0].dir())
            .args(instances.nodes[0].log());
        let output = finish(&mut again, PATIENCE);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(stderr(&output).contains(&name), "{}", said(&output));
    }
}

/// Facts about 40 SKUs, which lie in all partitions, to both instances in turn. All are applied.
fn receive_everywhere(instances: &Instances, source: &str) {
    for number in 0..40 {
        let address = instances.addresses()[number % 2];
        let sku = format!("sku-{number:02}");
        let body = fact("receive", source, &number.to_string(), &sku, 1);
        let answer = Http::connect(address)
            .unwrap()
            .post("/v1/commands", &body)
            .unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

/// Bytes that are no commands among the commands are parked, and all go on.
#[test]
fn garbage_among_the_commands_becomes_a_dead_letter() {
    let Some(others) = Others::find() else { return };
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let (garbage, place) = ([("key".to_owned(), "no pack".to_owned())], ["-p", "3"]);
    let commands = instances.nodes[0].topic_on_kafka("stock.commands");
    others.kcat_writes(&commands, &garbage, &place);
    receive_everywhere(&instances, "first");
    let dead = instances.nodes[0].topic_on_kafka("dead-letters");
    let parked = until("it is parked", || {
        let parked = others.kcat_prints(&dead, "%p %s\n");
        (!parked.is_empty()).then_some(parked)
    });
    println!("parked: {parked:?}");
    assert!(parked[0].starts_with("3 "), "{parked:?}");
    instances.stop_and_verify();
}

/// Every change of the feed from the earliest on, from each instance: none is missing, none comes twice.
fn feeds_tell(instances: &Instances, rounds: u64) {
    for address in instances.addresses() {
        let since = Since::Earliest;
        let mut feed = feed::open(address, Form::Ndjson, &since, "").unwrap();
        feed.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut count = 0;
        feed.read(|event| {
            if event.is_change() {
                let sku = event.data["sku"].as_str().unwrap().to_owned();
                let sequence = event.data["sequence"].as_u64().unwrap();
                told.entry(sku).or_default().push(sequence);
                count += 1;
            }
            count < 40 * rounds
        })
        .unwrap();
        assert_eq!(told.len(), 40);
        let in_order: Vec<u64> = (1..=rounds).collect();
        assert!(told.values().all(|told| *told == in_order), "{told:?}");
    }
}

/// What a stranger writes among what the instances decided, while they run and while none does, is left
/// out by whoever reads: owners that restore, feeds from the earliest, the JSON views, history, `verify`,
/// a copy. Garbage, and what could be ours: an own record without its label, in its own partition and in
/// others.
#[test]
fn what_strangers_write_among_the_decisions_is_left_out_by_all_who_read() {
    let Some(others) = Others::find() else { return };
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let topic = |name: &str| topic_of(&instances, name);
    let (decisions, state, dead) = (
        topic("stock.decisions"),
        topic("stock.state"),
        topic("dead-letters"),
    );
    let positions = topic("onhand.positions");
    let own = temp.path().join("own");
    let garbage = [("key".to_owned(), "no pack".to_owned())];
    let write = |own: Option<&std::path::Path>| {
        for partition in 0..8 {
            let place = ["-p", &partition.to_string()];
            for topic in [&decisions, &state, &dead] {
                others.kcat_writes(topic, &garbage, &place);
            }
            if let Some(own) = own {
                others.kcat_writes_file(&decisions, own, &place);
            }
        }
        others.kcat_writes(&positions, &garbage, &[]);
    };
    // Before anything was decided, too.
    write(None);
    receive_everywhere(&instances, "first");
    std::fs::write(
        &own,
        others.kcat_takes(&decisions, &["-p", "3", "-o", "1", "-c", "1"]),
    )
    .unwrap();
    write(Some(&own));
    receive_everywhere(&instances, "second");
    write(Some(&own));
    feeds_tell(&instances, 2);

    // Whoever takes the partitions over restores them.
    let holder = instances.holders(0).unwrap()[&3].clone();
    let mut names = instances.names.iter();
    let at = names.position(|name| *name == holder).unwrap();
    instances.nodes[at].kill();
    instances.await_shared(&[1 - at]);
    instances.nodes[at].start_again();
    instances.await_shared(&[0, 1]);
    receive_everywhere(&instances, "third");
    feeds_tell(&instances, 3);
    let words = instances.nodes[1 - at].words();
    let told = words
        .lines()
        .filter(|line| line.contains("left out, as no instance"));
    for part in [&*decisions, "partition=3", "offset=0", "it bears no label"] {
        assert!(
            told.clone().any(|line| line.contains(part)),
            "{part}: {words}"
        );
    }
    let metrics = instances.nodes[1 - at].get("/metrics").text();
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix("onhand_log_strangers_total "));
    println!("strangers: {counted:?}");
    assert!(counted.unwrap().parse::<u64>().unwrap() >= 8, "{counted:?}");

    for node in &mut instances.nodes {
        node.stop();
    }
    write(Some(&own));
    instances.nodes[0].verify_clean();
    instances.nodes.iter_mut().for_each(Node::start_again);
    instances.await_shared(&[0, 1]);
    receive_everywhere(&instances, "fourth");
    feeds_tell(&instances, 4);
    let all = levels(&mut instances.nodes[0].http());
    assert_eq!(all.len(), 40);
    assert!(all.values().all(|level| level.on_hand == 4), "{all:?}");
    let history = instances.nodes[1].get("/v1/history?sku=sku-07").json();
    assert_eq!(
        history["items"].as_array().map(Vec::len),
        Some(4),
        "{history}"
    );
    let changes = topic_of(&instances, "stock.changes");
    let published = until("the views have all", || {
        let published = others.kcat_prints(&changes, "%k %s\n");
        (published.len() >= 160).then_some(published)
    });
    assert_eq!(published.len(), 160);
    instances.stop_and_verify();

    // A copy has what the instances wrote, and serves it.
    let data = temp.path().join("copy");
    let mut copy = command();
    copy.args(["log", "copy", "-o", "json", "--to", "journal", "--data"]);
    let output = finish(copy.arg(&data).args(instances.nodes[0].log()), PATIENCE * 4);
    assert!(output.status.success(), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["source_digest"], summary["target_digest"]);
    common::node::verify_clean(&data);
    let copied = Node::start(Setup {
        dir: Some(data),
        log: Some(Vec::new()),
        args: ["--partitions", "8"].map(str::to_owned).into(),
        ..Setup::default()
    });
    let there = levels(&mut copied.http());
    assert!(
        there.values().map(|level| level.on_hand).eq([4; 40]),
        "{there:?}"
    );
}

fn topic_of(instances: &Instances, name: &str) -> String {
    instances.nodes[0].topic_on_kafka(name)
}

/// `stock.inbox` may drop old records where that is stated. What it dropped before it was taken is told of with
/// how much it is, and the rest is taken; a topic that keeps its records for another time than stated is
/// refused with the command that mends it, and read by who only reads.
#[test]
fn an_inbox_that_drops_records_before_they_are_taken_says_how_many() {
    let (Some(others), Some(brokers)) = (Others::find(), Brokers::ours()) else {
        return;
    };
    let args = ["--partitions", "4", "--inbox-retention", "1h"];
    let mut node = Node::start(Setup {
        args: args.map(str::to_owned).into(),
        ..Setup::default()
    });
    let inbox = node.topic_on_kafka("stock.inbox");
    let write = |source: &str, count: u32| {
        let records: Vec<_> = (0..count)
            .map(|id| {
                let fact = fact("receive", source, &id.to_string(), "A", 1);
                ("k".to_owned(), fact.to_string())
            })
            .collect();
        others.kcat_writes(&inbox, &records, &["-p", "1"]);
    };
    let await_units = |node: &Node, units: i64| {
        until("all is taken", || {
            let answer = node.get("/v1/stock/A/main");
            (answer.status() == 200 && answer.json()["on_hand"] == units).then_some(())
        });
    };
    write("first", 3);
    await_units(&node, 3);
    let configs = "kafka.admin.ConfigCommand";
    let described = [
        "--describe",
        "--entity-type",
        "topics",
        "--entity-name",
        &inbox,
    ];
    let described = brokers.tool(configs, &described);
    for setting in [
        "retention.ms=3600000",
        "message.timestamp.type=LogAppendTime",
    ] {
        assert!(described.contains(setting), "{described}");
    }
    node.stop();
    write("second", 10);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("offsets.json");
    let deleted = serde_json::json!({
        "version": 1,
        "partitions": [{ "topic": inbox, "partition": 1, "offset": 7 }],
    });
    std::fs::write(&file, deleted.to_string()).unwrap();
    let class = "org.apache.kafka.tools.DeleteRecordsCommand";
    brokers.tool(class, &["--offset-json-file", file.to_str().unwrap()]);
    node.start_again();
    await_units(&node, 9);
    let words = node.words();
    let told = words
        .lines()
        .find(|line| line.contains("were deleted before"));
    let told = told.unwrap_or_else(|| panic!("it is told: {words}"));
    for part in ["partition=1", "from=3", "to=7", "missed=4", "ERROR"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let metrics = node.get("/metrics").text();
    assert!(
        metrics.contains("onhand_gate_missed_total 4\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("onhand_gate_partitions_stopped 0\n"),
        "{metrics}"
    );
    node.stop_and_verify();

    for (stated, mends) in [
        ("7d", "retention.ms=604800000"),
        ("forever", "retention.ms=-1"),
    ] {
        let mut serve = command();
        serve
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--inbox-retention",
                stated,
                "--data",
            ])
            .arg(node.dir())
            .args(node.log());
        let output = finish(&mut serve, PATIENCE);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let words = stderr(&output);
        assert!(
            words.contains(&format!("--entity-name {inbox} --add-config {mends}")),
            "{words}"
        );
    }
}

/// What is too large is refused by whichever instance hears it, as on the journal.
#[test]
fn what_is_too_large_is_413() {
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let mut large = fact("receive", "till", "1", "A", 1);
    large["note"] = Value::from("x".repeat(2 << 20));
    for address in instances.addresses() {
        let answer = Http::connect(address).unwrap().post("/v1/commands", &large);
        // It may answer before it has read everything, which breaks the sending.
        if let Ok(answer) = answer {
            assert_eq!(answer.status(), 413, "{}", answer.text());
        }
        let line = |text: &str, id: u64| {
            let mut fact = fact("receive", "file", &id.to_string(), "A", 1);
            fact["note"] = Value::from(text);
            format!("{fact}\n")
        };
        let lines = [
            line("short", 1),
            line(&"x".repeat(100 << 10), 2),
            line("short", 3),
        ];
        let answer = Http::connect(address)
            .unwrap()
            .bulk("", &lines.concat())
            .unwrap();
        let told: Vec<_> = answer
            .lines()
            .iter()
            .map(|line| line["status"].clone())
            .collect();
        assert_eq!(told[1], "invalid", "{}", answer.text());
        assert!(
            told[0] != "invalid" && told[2] != "invalid",
            "{}",
            answer.text()
        );
    }
    assert_eq!(level(&mut instances.nodes[0].http(), "A").on_hand, 2);
    instances.stop_and_verify();
}

/// An instance that is asked to stop hands over what it has, and nobody who asks another one notices
/// but by waiting; the last one stops as well.
#[test]
fn an_instance_that_is_told_to_stop_leaves_politely() {
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    // From the second time on it is one that was started again.
    for _ in 0..if soak() { 10 } else { 2 } {
        let sender = Sender::start(
            instances.addresses()[1],
            &format!("till-{:?}", Instant::now()),
        );
        std::thread::sleep(Duration::from_secs(1));
        instances.nodes[0].terminate();
        let begin = Instant::now();
        let taken = instances.await_shared(&[1]);
        let status = instances.nodes[0].wait_for_end(PATIENCE);
        let ended = begin.elapsed();
        let words = instances.nodes[0].words();
        assert!(status.success(), "{status}: {words}");
        std::thread::sleep(Duration::from_millis(500));
        let told = sender.finish();
        println!(
            "left: the other holds everything after {taken:?}, the process ended after {ended:?}; {} \
             requests meanwhile",
            told.len()
        );
        assert!(told.iter().all(|status| *status == 200), "{told:?}");
        assert!(
            !words.contains("WARN") && !words.contains("ERROR"),
            "{words}"
        );
        // It said goodbye: nobody waited until it was silent, and nobody fenced it.
        let others = instances.nodes[1].words();
        for word in ["nothing is heard", "fenced"] {
            assert!(!others.contains(word), "{word}: {others}");
        }
        instances.nodes[0].start_again();
        instances.await_shared(&[0, 1]);
    }
    for node in &mut instances.nodes {
        node.terminate();
        let begin = Instant::now();
        let status = node.wait_for_end(PATIENCE);
        println!("stopped after {:?}", begin.elapsed());
        assert!(status.success(), "{status}: {}", node.words());
    }
    instances.nodes[0].verify_clean();
}

/// Of two processes of one name the newer serves; the older ends with the name and what to change. And
/// while partitions change hands, `onhand cluster` and `/readyz` say how it stands.
#[test]
fn a_second_process_of_a_name_takes_over_and_the_first_says_why_it_ends() {
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let sender = Sender::start(instances.addresses()[1], "till");
    let twin = Node::start(Setup {
        args: ["--instance", "a"].map(str::to_owned).into(),
        port: port(),
        log: Some(instances.nodes[0].log()),
        ..Setup::default()
    });
    let status = instances.nodes[0].wait_for_end(PATIENCE);
    let words = instances.nodes[0].words();
    assert_eq!(status.code(), Some(1), "{words}");
    let last = words.lines().last().unwrap();
    println!("{last}");
    for word in ["instance \"a\"", "--instance"] {
        assert!(last.contains(word), "{word}: {words}");
    }
    until("the other knows where the name answers now", || {
        let answer = Http::connect(instances.addresses()[1])
            .unwrap()
            .get("/v1/cluster");
        answer
            .unwrap()
            .text()
            .contains(&twin.address().to_string())
            .then_some(())
    });
    // What was in the middle of its commit is not known to who handed it over: to be sent again.
    let told = sender.finish();
    assert!(
        told.iter().all(|status| matches!(status, 200 | 503)),
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&200), "{told:?}");

    let mut twin = twin;
    twin.kill();
    let mut seen = Vec::new();
    until("the other has everything", || {
        let output = instances.nodes[1].onhand(["cluster", "-o", "json"]);
        assert!(output.status.success(), "{}", said(&output));
        let cluster: Value = serde_json::from_slice(&output.stdout).unwrap();
        let places = cluster["partitions"].as_array().unwrap();
        assert_eq!(places.len(), 8, "{cluster}");
        let held = places.iter().filter(|place| place["holder"] == "b").count();
        let table = instances.nodes[1].onhand(["cluster", "-o", "table"]);
        assert!(table.status.success(), "{}", said(&table));
        let ready = instances.nodes[1].get("/readyz");
        assert!(matches!(ready.status(), 200 | 503), "{}", ready.text());
        if seen.last() != Some(&(held, ready.status())) {
            seen.push((held, ready.status()));
        }
        (held == 8 && ready.status() == 200).then_some(())
    });
    println!("partitions held and /readyz, as they changed: {seen:?}");
    instances.nodes[1].stop();
    instances.nodes[1].verify_clean();
}
