//! Promise: a shop that began on one machine moves to Kafka, and back, without losing a reservation, and
//! whoever follows its feed notices nothing.
//!
//! The failure it retells: a migration at midnight that is interrupted, run again, and ends with a few
//! records twice; or with two systems that both sell the same stock the next morning.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use common::Rng;
use common::feed::{self, Form, Since};
use common::node::{Node, Setup, command, finish, fresh_log_on_kafka, kafka, said, verify_clean};
use common::stock::{Level, Levels, fact, levels};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

const FILE: &str = "online-retail/sales-2010-12-to-2011-08.csv.gz";
const PARTITIONS: &str = "4";
const LONG: Duration = Duration::from_secs(400);

/// Flags of a log of its own on the tests' brokers; `None`, and said so, without brokers.
fn brokers() -> Option<Vec<String>> {
    let found = kafka().map(|bootstrap| fresh_log_on_kafka(&bootstrap));
    if found.is_none() {
        println!("skipped: ONHAND_TEST_KAFKA names no brokers");
    }
    found
}

fn node(dir: &Path, on_kafka: &[String]) -> Node {
    Node::start(Setup {
        dir: Some(dir.to_owned()),
        log: Some(on_kafka.to_vec()),
        args: ["--partitions", PARTITIONS].map(str::to_owned).into(),
        ..Setup::default()
    })
}

fn copy(to: &str, dir: &Path, on_kafka: &[String]) -> Output {
    let mut copy = command();
    copy.args(["log", "copy", "-o", "json", "--to", to, "--data"]);
    finish(copy.arg(dir).args(on_kafka), LONG)
}

/// The summary of a copy that must succeed.
fn copied(to: &str, dir: &Path, on_kafka: &[String]) -> Value {
    let output = copy(to, dir, on_kafka);
    assert!(output.status.success(), "{}", said(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        summary["source_digest"], summary["target_digest"],
        "{summary}"
    );
    // Of 4 partitions, three owners each: partitions that nothing came to have none, and only on Kafka
    // something is taken from an inbox and published.
    let positions = summary["positions"].as_u64().unwrap();
    assert!((1..=12).contains(&positions), "{summary}");
    summary
}

/// Serving this must be refused, with words.
fn refused(dir: &Path, on_kafka: &[String], words: &str) {
    let mut serve = command();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
    let output = finish(serve.arg(dir).args(on_kafka), LONG);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(words), "{words}: {}", said(&output));
}

fn verify_on_kafka(on_kafka: &[String]) {
    let output = finish(command().arg("verify").args(on_kafka), LONG);
    assert!(output.status.success(), "{}", said(&output));
}

/// A year of a wholesaler where the data is there, else some made-up trade.
fn import(node: &Node) {
    if let Some(file) = common::data_file(FILE) {
        let mut import = command();
        import.args(["import", "--format", "online-retail", "--url", &node.url()]);
        import
            .arg("--quarantine")
            .arg(node.dir().join("quarantine.csv"));
        let output = finish(import.arg(&file), LONG);
        assert!(output.status.success(), "{}", said(&output));
    } else {
        receive(node, "made-up", 3_000);
    }
}

/// Facts about a hundred SKUs.
fn receive(node: &Node, source: &str, count: usize) {
    let lines: Vec<String> = (0..count)
        .map(|n| {
            fact(
                "receive",
                source,
                &n.to_string(),
                &format!("k{}", n % 100),
                3,
            )
            .to_string()
        })
        .collect();
    let answer = node.http().bulk("", &(lines.join("\n") + "\n")).unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let totals = answer.lines().pop().unwrap();
    assert_eq!(totals["totals"]["applied"], json!(count), "{totals}");
}

/// Takes three SKUs at once; stays open for an hour.
fn reserve(node: &Node, id: &str) {
    let lines: Vec<Value> = ["k1", "k2", "k3"]
        .map(|sku| json!({"sku": sku, "quantity": 1, "location": "main"}))
        .to_vec();
    let body =
        json!({"id": format!("reserve {id}"), "reservation": id, "ttl_s": 3600, "lines": lines});
    let answer = node.post("/v1/reservations", &body);
    assert_eq!(answer.status(), 201, "{}", answer.text());
}

fn act(node: &Node, id: &str, verb: &str) {
    let answer = node.post(
        &format!("/v1/reservations/{id}/{verb}"),
        &json!({"id": format!("{verb} {id}")}),
    );
    assert_eq!(answer.status(), 200, "{verb}: {}", answer.text());
}

/// The feed from a position, taken into what was known there: nothing missing, nothing twice. Ends when
/// it agrees with what the node says now, and gives the position of its last change.
fn follow(node: &Node, since: &str, known: &mut Levels) -> String {
    let now = levels(&mut node.http());
    let mut last = since.to_owned();
    let mut behind = now
        .values()
        .filter(|level| known.get(&level.key()) != Some(level))
        .count();
    if behind == 0 {
        return last;
    }
    let since = Since::Position(since.to_owned());
    let mut feed = feed::open(node.address(), Form::Ndjson, &since, "").unwrap();
    feed.stream()
        .set_read_timeout(Some(common::PATIENCE))
        .unwrap();
    let ended = feed.read(|event| {
        if let Some(position) = &event.position {
            last.clone_from(position);
        }
        if !event.is_change() {
            return true;
        }
        let level = Level::read(&event.data["level"]);
        let before = known.get(&level.key()).map_or(0, |known| known.sequence);
        assert_eq!(
            level.sequence,
            before + 1,
            "a gap or a repeat: {}",
            event.data
        );
        if now.get(&level.key()) == Some(&level) {
            behind -= 1;
        }
        known.insert(level.key(), level);
        behind > 0
    });
    assert!(ended.unwrap(), "the node ended the feed");
    assert_eq!(*known, now, "what the feed told is what the node says");
    last
}

/// Where the feed stands now.
fn newest(node: &Node) -> String {
    let mut found = None;
    let mut feed = feed::open(node.address(), Form::Sse, &Since::Snapshot, "").unwrap();
    feed.stream()
        .set_read_timeout(Some(common::PATIENCE))
        .unwrap();
    feed.read(|event| {
        found.clone_from(&event.position);
        !event.is_snapshot_end()
    })
    .unwrap();
    found.expect("the end of a snapshot has a position")
}

#[test]
fn a_shop_moves_to_kafka_and_back_with_open_reservations() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    let mut shop = node(&first, &[]);
    import(&shop);
    receive(&shop, "morning", 400);
    for id in ["a", "b", "c", "d"] {
        reserve(&shop, id);
    }
    let mut known = levels(&mut shop.http());
    let mut position = newest(&shop);
    // The reader lags behind when the shop moves.
    receive(&shop, "noon", 100);
    reserve(&shop, "e");
    let before = levels(&mut shop.http());
    shop.stop();
    let summary = copied("kafka", &first, &on_kafka);
    println!("{summary}");

    refused(&first, &[], "it is sealed: it moved to Kafka at");
    verify_clean(&first);
    verify_on_kafka(&on_kafka);
    // On the same directory: its snapshots are of the journal's offsets.
    let mut shop = node(&first, &on_kafka);
    assert!(shop.words().contains("of another log"), "{}", shop.words());
    assert_eq!(levels(&mut shop.http()), before, "positions included");
    position = follow(&shop, &position, &mut known);
    act(&shop, "a", "confirm");
    act(&shop, "b", "release");
    receive(&shop, "evening", 100);
    position = follow(&shop, &position, &mut known);
    let again = fact("receive", "noon", "0", "k0", 3);
    let answer = shop.post("/v1/commands", &again);
    assert_eq!(
        answer.json()["status"],
        json!("duplicate"),
        "{}",
        answer.text()
    );
    let before = levels(&mut shop.http());
    shop.stop();

    copied("journal", &second, &on_kafka);
    refused(
        &first,
        &on_kafka,
        "it is sealed: it moved to the journal in",
    );
    verify_on_kafka(&on_kafka);
    verify_clean(&second);
    let mut shop = node(&second, &[]);
    assert_eq!(levels(&mut shop.http()), before, "positions included");
    act(&shop, "c", "confirm");
    act(&shop, "e", "release");
    receive(&shop, "night", 100);
    follow(&shop, &position, &mut known);
    shop.stop_and_verify();
    // Nothing is written over what is there.
    let output = copy("journal", &second, &on_kafka);
    assert!(
        said(&output).contains("is sealed") || said(&output).contains("is finished"),
        "{}",
        said(&output)
    );
}

/// A directory with some history, stopped.
fn history(temp: &Path) -> (PathBuf, Levels) {
    let dir = temp.join("shop");
    let mut shop = node(&dir, &[]);
    // Large enough that a kill meets the copy at work.
    for part in 0..6 {
        receive(&shop, &format!("part{part}"), 8_000);
    }
    reserve(&shop, "a");
    let before = levels(&mut shop.http());
    shop.stop();
    (dir, before)
}

fn kill_some_copies(
    rng: &mut Rng,
    to: &str,
    dir: &Path,
    on_kafka: &[String],
) -> BTreeMap<bool, u32> {
    let mut ends = BTreeMap::new();
    for _ in 0..5 {
        let mut copy = command();
        copy.args(["log", "copy", "--to", to, "--data"]);
        copy.arg(dir).args(on_kafka);
        let mut child = copy
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(rng.millis(50, 4_000));
        let killed = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        *ends.entry(killed).or_default() += 1;
    }
    ends
}

#[test]
fn a_copy_killed_anywhere_goes_on_and_doubles_nothing() {
    let Some(on_kafka) = brokers() else { return };
    let mut rng = Rng::seeded();
    let temp = tempfile::tempdir().unwrap();
    let (dir, before) = history(temp.path());
    let mut killed = kill_some_copies(&mut rng, "kafka", &dir, &on_kafka);
    println!("to Kafka, killed at work: {killed:?}");
    let output = copy("kafka", &dir, &on_kafka);
    assert!(output.status.success(), "{}", said(&output));
    refused(&dir, &[], "it is sealed");
    verify_on_kafka(&on_kafka);
    let mut shop = node(&dir, &on_kafka);
    assert_eq!(levels(&mut shop.http()), before);
    act(&shop, "a", "confirm");
    let before = levels(&mut shop.http());
    shop.stop();
    let back = temp.path().join("back");
    killed = kill_some_copies(&mut rng, "journal", &back, &on_kafka);
    println!("to a journal, killed at work: {killed:?}");
    let output = copy("journal", &back, &on_kafka);
    assert!(output.status.success(), "{}", said(&output));
    verify_clean(&back);
    let mut shop = node(&back, &[]);
    assert_eq!(levels(&mut shop.http()), before);
    shop.stop();
}

#[test]
fn a_copy_at_work_is_not_served_and_what_was_changed_in_it_is_found() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let (dir, _) = history(temp.path());
    let mut copying = command();
    copying.args(["log", "copy", "--to", "kafka", "--data"]);
    copying.arg(&dir).args(&on_kafka);
    let mut child = copying
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Stopped once it has begun to write.
    let talk = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(talk);
    let begun = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("stock.commands"));
    assert!(begun, "the copy says what it does");
    child.kill().unwrap();
    child.wait().unwrap();
    // From a directory of its own: one that holds a journal which did not move is refused for that.
    refused(
        &temp.path().join("snapshots"),
        &on_kafka,
        "it is an unfinished copy of the log in the journal in",
    );
    refused(&dir, &on_kafka, "was not moved to Kafka");
    // Another source is not mixed in.
    let other = temp.path().join("other");
    node(&other, &[]).stop();
    let output = copy("kafka", &other, &on_kafka);
    assert!(
        said(&output).contains("holds another log already"),
        "{}",
        said(&output)
    );

    // Somebody writes a record of their own into the target.
    let brokers = kafka().unwrap();
    let prefix = on_kafka[2].strip_prefix("--kafka-prefix=").unwrap();
    produce(&brokers, &format!("{prefix}stock.commands"));
    let output = copy("kafka", &dir, &on_kafka);
    assert!(!output.status.success(), "{}", said(&output));
    let words = said(&output);
    assert!(
        words.contains("stock.commands") && words.contains("begin again with an empty target")
            || words.contains("begin with an empty target"),
        "{words}"
    );
    // Nothing was lost by it: the source is served as before.
    let mut shop = node(&dir, &[]);
    shop.stop_and_verify();
}

/// One record by Kafka's own console producer.
fn produce(brokers: &str, topic: &str) {
    let jars = finish(
        std::process::Command::new("python3")
            .arg(common::root().join("tools/kafka/brokers.py"))
            .arg("jars"),
        LONG,
    );
    let jars = String::from_utf8(jars.stdout).unwrap();
    let mut producer = std::process::Command::new("java");
    producer.args(["-Xmx128m", "-cp", &format!("{}/*", jars.trim())]);
    producer.args([
        "org.apache.kafka.tools.ConsoleProducer",
        "--bootstrap-server",
        brokers,
    ]);
    let mut child = producer
        .args(["--topic", topic])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a stranger\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_sealed_log_is_unsealed_only_by_who_says_so_and_in_a_new_epoch() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("shop");
    let mut shop = node(&dir, &[]);
    receive(&shop, "one", 100);
    let position = newest(&shop);
    shop.stop();
    copied("kafka", &dir, &on_kafka);
    let unseal = |more: &[&str]| {
        let mut unseal = command();
        unseal.args(["log", "unseal", "--data"]).arg(&dir);
        finish(unseal.args(more), LONG)
    };
    let asked = unseal(&[]);
    assert!(
        !asked.status.success() && said(&asked).contains("each sells"),
        "{}",
        said(&asked)
    );
    assert!(!unseal(&["--confirm", "yes"]).status.success());
    refused(&dir, &[], "it is sealed");
    let done = unseal(&["--confirm", "new-epoch"]);
    assert!(done.status.success(), "{}", said(&done));
    let mut shop = node(&dir, &[]);
    // A reader of before is told that its position means nothing here.
    let since = Since::Position(position);
    let (_, head) = feed::ask(shop.address(), Form::Ndjson, &since, "").unwrap();
    assert_eq!(head.status, 410, "{head:?}");
    shop.stop();
    assert!(
        !unseal(&["--confirm", "new-epoch"]).status.success(),
        "it is not sealed any more"
    );
}

#[test]
fn a_source_that_is_served_is_not_copied_and_a_target_that_was_served_only_seals_it() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("shop");
    let mut shop = node(&dir, &[]);
    receive(&shop, "one", 100);
    let output = copy("kafka", &dir, &on_kafka);
    assert!(
        said(&output).contains("is in use by process"),
        "{}",
        said(&output)
    );
    shop.stop();
    // The seal is undone on purpose, as if the end of the copy had been interrupted before it.
    let kept = temp.path().join("kept");
    copy_directory(&dir, &kept);
    copied("kafka", &dir, &on_kafka);
    let mut moved = node(&temp.path().join("snapshots"), &on_kafka);
    receive(&moved, "two", 100);
    let back = temp.path().join("back");
    let output = copy("journal", &back, &on_kafka);
    assert!(
        said(&output).contains("is served by") && said(&output).contains("stop them first"),
        "{}",
        said(&output)
    );
    assert!(!output.status.success() && !back.exists());
    moved.stop();
    let output = copy("kafka", &kept, &on_kafka);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("was served meanwhile"),
        "{}",
        said(&output)
    );
    refused(&kept, &[], "it is sealed");

    // A source that was served after it was copied is another history.
    let other = temp.path().join("other");
    copy_directory(&dir, &other);
    let unseal = ["log", "unseal", "--confirm", "new-epoch", "--data"];
    let output = finish(command().args(unseal).arg(&other), LONG);
    assert!(output.status.success(), "{}", said(&output));
    let mut shop = node(&other, &[]);
    receive(&shop, "three", 100);
    shop.stop();
    let output = copy("kafka", &other, &on_kafka);
    assert!(
        said(&output).contains("not one history any more"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_server_that_nobody_heard_writes_nothing_once_its_log_moved() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let mut shop = node(&temp.path().join("snapshots"), &on_kafka);
    receive(&shop, "one", 100);
    let before = levels(&mut shop.http());
    shop.pause(true);
    let back = temp.path().join("back");
    copied("journal", &back, &on_kafka);
    shop.pause(false);
    let status = shop.wait_for_end(Duration::from_secs(120));
    assert!(!status.success(), "{}", shop.words());
    assert!(shop.words().contains("it is sealed"), "{}", shop.words());
    verify_on_kafka(&on_kafka);
    let mut moved = node(&back, &[]);
    assert_eq!(levels(&mut moved.http()), before);
    moved.stop_and_verify();
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn an_interrupt_is_no_harm() {
    let Some(on_kafka) = brokers() else { return };
    let temp = tempfile::tempdir().unwrap();
    let (dir, _) = history(temp.path());
    let mut copying = command();
    copying.args(["log", "copy", "--to", "kafka", "--data"]);
    copying.arg(&dir).args(&on_kafka);
    let mut child = copying
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // It may have ended by then.
    let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::INT);
    child.wait().unwrap();
    let output = copy("kafka", &dir, &on_kafka);
    assert!(output.status.success(), "{}", said(&output));
    verify_on_kafka(&on_kafka);
}
