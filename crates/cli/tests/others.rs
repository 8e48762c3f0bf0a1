//! Promise: other programs on the same brokers write commands with whatever producer they have, and
//! read what became of them; each of their records has its effect once.
//!
//! The failure it retells: two services wrote orders for one article with clients of two languages, whose
//! partitioners disagree; two consumers each held half of its stock, and it was sold twice.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::http::Http;
use common::node::{Node, Setup};
use common::others::{Others, Printed};
use common::stock::level;
use common::{Rng, count, until};
use serde_json::{Value, json};

const PARTITIONS: u16 = 4;

fn start() -> Node {
    Node::start(Setup {
        args: vec!["--partitions".to_owned(), PARTITIONS.to_string()],
        ..Setup::default()
    })
}

fn receive(source: &str, id: u64, sku: &str) -> (String, String) {
    let command = json!({"source": source, "id": id.to_string(), "type": "receive", "sku": sku,
                         "location": "main", "quantity": 1});
    (sku.to_owned(), command.to_string())
}

fn reserve(source: &str, id: u64, sku: &str) -> (String, String) {
    let command = json!({"source": source, "id": id.to_string(), "type": "reserve",
                         "lines": [{"sku": sku, "quantity": 1}]});
    (sku.to_owned(), command.to_string())
}

/// The figure of that name among the node's metrics.
fn metric(node: &Node, name: &str) -> u64 {
    let text = node.get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
    line.trim().parse().unwrap()
}

fn json_of(record: &Printed) -> Value {
    serde_json::from_str(&record.value).unwrap()
}

/// The outcomes in the topic, by source and id, once that many are there.
fn outcomes(others: &Others, node: &Node, count: usize) -> BTreeMap<String, Value> {
    let topic = node.topic_on_kafka("stock.outcomes");
    let records = until("all outcomes are published", || {
        let records = others.kcat_reads(&topic);
        (records.len() >= count).then_some(records)
    });
    assert_eq!(records.len(), count);
    let by_name: BTreeMap<_, _> = records
        .iter()
        .map(|record| (record.key.clone(), json_of(record)))
        .collect();
    assert_eq!(by_name.len(), count, "each command has one outcome");
    by_name
}

/// The newest value of each key, in the order of each partition.
fn newest(lines: &[String]) -> BTreeMap<String, Value> {
    let lines = lines.iter().map(|line| line.split_once('|').unwrap());
    lines
        .map(|(key, value)| (key.to_owned(), serde_json::from_str(value).unwrap()))
        .collect()
}

#[test]
fn kcat_and_javas_console_programs_write_to_one_owner_and_read_one_truth() {
    let Some(others) = Others::find() else { return };
    let mut node = start();
    let inbox = node.topic_on_kafka("stock.inbox");
    let each = 40;
    let sku = |n: u64| format!("SKU {}", n % 10);
    let commands = |source: &str| -> Vec<_> {
        let facts = (0..each).map(|n| receive(source, n, &sku(n)));
        facts.chain([receive(source, 1_000, "last")]).collect()
    };
    others.kcat_writes(&inbox, &commands("kcat"), &[]);
    others.java_writes(&inbox, &commands("java"));

    // Their partitioners disagree: one SKU stands in several partitions of the inbox.
    let mut places: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for record in others.kcat_reads(&inbox) {
        places
            .entry(record.key)
            .or_default()
            .insert(record.partition);
    }
    let apart = places.values().filter(|partitions| partitions.len() > 1);
    assert!(apart.count() > 0, "{places:?}");

    let facts = usize::try_from(2 * each).unwrap() + 2;
    let told = outcomes(&others, &node, facts);
    assert!(told.values().all(|outcome| outcome["status"] == "applied"));
    let mut http = node.http();
    for n in 0..10 {
        assert_eq!(level(&mut http, &sku(n)).on_hand, 8);
    }
    assert_eq!(level(&mut http, "last").on_hand, 2);

    // Two units, and both programs ask for twenty.
    let asks = |source: &str| -> Vec<_> { (0..20).map(|n| reserve(source, n, "last")).collect() };
    let (kcat, java) = (asks("kcat asks"), asks("java asks"));
    std::thread::scope(|scope| {
        scope.spawn(|| others.java_writes(&inbox, &java));
        scope.spawn(|| others.kcat_writes(&inbox, &kcat, &[]));
    });
    let told = outcomes(&others, &node, facts + 40);
    let with = |status: &str| told.values().filter(|o| o["status"] == status).count();
    assert_eq!((with("granted"), with("rejected")), (2, 38));
    let last = level(&mut http, "last");
    assert_eq!((last.on_hand, last.reserved, last.available), (2, 2, 0));

    // Both programs read the same, and it is what the node says.
    for (name, path) in [
        ("stock.levels", "/v1/stock?limit=1000"),
        ("stock.reservations", "/v1/reservations?limit=1000"),
    ] {
        let topic = node.topic_on_kafka(name);
        let truth = node.get(path).json();
        let truth: BTreeSet<String> = truth["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        until("the view is what the node says", || {
            let lines = others.kcat_prints(&topic, "%k|%s\n");
            let view = newest(&lines);
            let view: BTreeSet<_> = view.values().map(Value::to_string).collect();
            (view == truth).then_some(())
        });
        let kcat = others.kcat_reads(&topic);
        assert_eq!(others.java_reads(&topic, kcat.len()), kcat);
    }
    let changes = others.kcat_reads(&node.topic_on_kafka("stock.changes"));
    assert_eq!(changes.len(), facts + 2);
    assert!(
        changes
            .iter()
            .all(|change| json_of(change)["sku"] == change.key)
    );

    // All that was published with its decisions, which say so. What repeats a command is told later, once what
    // it repeats is read.
    let decisions = node.topic_on_kafka("stock.decisions");
    let notes = others.kcat_prints(&decisions, "%h\n");
    let published = |notes: &String| notes.starts_with("published=");
    assert!(
        !notes.is_empty() && notes.iter().all(published),
        "{notes:?}"
    );
    others.kcat_writes(&inbox, &commands("kcat")[..1], &[]);
    let repeat = until("the repeat is told", || {
        let told = others.kcat_reads(&node.topic_on_kafka("stock.outcomes"));
        told.iter()
            .map(json_of)
            .find(|o| o["status"] == "duplicate")
    });
    assert_eq!(repeat["first"]["status"], "applied", "{repeat}");
    assert_eq!(metric(&node, "onhand_gate_aside_total"), 0);
    node.stop_and_verify();
}

#[test]
fn what_is_no_command_is_kept_whole_and_what_follows_is_taken() {
    let Some(others) = Others::find() else { return };
    let mut node = start();
    let inbox = node.topic_on_kafka("stock.inbox");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let padded = |id: u64, length: usize| {
        let mut command = receive("big", id, "A").1.into_bytes();
        command.resize(length, b' ');
        command
    };
    let to_one = ["-p", "1"];
    let garbage: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    others.kcat_writes_file(
        &inbox,
        &file("garbage", &garbage),
        &["-p", "1", "-k", "own key"],
    );
    others.kcat_writes(&inbox, &[("empty".to_owned(), String::new())], &to_one);
    others.kcat_writes(
        &inbox,
        &[("gone".to_owned(), String::new())],
        &["-p", "1", "-Z"],
    );
    let limit = 1 << 20;
    for (id, length) in [(1, limit), (2, limit + 1), (3, 12 << 20)] {
        let path = file("big", &padded(id, length));
        // What is not compressed has its full size on the way.
        others.kcat_writes_file(&inbox, &path, &to_one);
    }
    let named = [(
        String::new(),
        json!({"type": "receive", "sku": "A", "location": "main", "quantity": 1}).to_string(),
    )];
    others.kcat_writes(
        &inbox,
        &named,
        &["-p", "1", "-H", "source=bus", "-H", "id=7"],
    );
    others.kcat_writes(&inbox, &named, &to_one);

    let told = outcomes(&others, &node, 3);
    let names: Vec<_> = told.keys().map(String::as_str).collect();
    let [big, bus, unnamed] = names[..] else {
        panic!("three outcomes: {told:?}");
    };
    assert_eq!((big, bus), ("big/1", "bus/7"));
    // Without a name it has its place, behind the log's own id.
    let is_place = unnamed.starts_with("inbox/") && unnamed.ends_with("-1-7");
    assert!(is_place, "{unnamed}");
    assert_eq!(level(&mut node.http(), "A").on_hand, 3);

    let letters = others.kcat_prints(&node.topic_on_kafka("dead-letters"), "%p %K %S %h\n");
    let begins = [
        ("1 7 3000 ", "origin.offset=0", "the command is no UTF-8"),
        ("1 5 0 ", "origin.offset=1", "the command cannot be read"),
        ("1 4 -1 ", "origin.offset=2", "the command has no value"),
        (
            "1 -1 1048577 ",
            "origin.offset=4",
            "the command is longer than 1048576 B",
        ),
        (
            "1 -1 12582912 ",
            "origin.offset=5",
            "the command is longer than 1048576 B",
        ),
    ];
    assert_eq!(letters.len(), begins.len(), "{letters:?}");
    for (letter, (begin, origin, reason)) in letters.iter().zip(begins) {
        assert!(letter.starts_with(begin), "{letter}");
        for part in [
            origin,
            reason,
            "origin.topic=stock.inbox",
            "origin.partition=1",
        ] {
            assert!(letter.contains(part), "{part}: {letter}");
        }
    }
    assert_eq!(metric(&node, "onhand_gate_aside_total"), 5);
    node.stop_and_verify();
}

#[test]
fn a_node_that_is_killed_takes_every_command_once() {
    let Some(others) = Others::find() else { return };
    let mut node = start();
    let inbox = node.topic_on_kafka("stock.inbox");
    let (rounds, each) = (count(40, 300), 400);
    let mut rng = Rng::seeded();
    for round in 0..rounds {
        let commands: Vec<_> = (0..each)
            .map(|n| receive("kcat", round * each + n, &format!("S{}", n % 20)))
            .collect();
        others.kcat_writes(&inbox, &commands, &[]);
        // Somewhere in the middle of taking, deciding and publishing them.
        std::thread::sleep(rng.millis(0, 400));
        node.kill();
        node.start_again();
    }
    let all = usize::try_from(rounds * each).unwrap();
    let told = outcomes(&others, &node, all);
    // A record taken twice would be told as a duplicate.
    let applied = told
        .values()
        .filter(|outcome| outcome["status"] == "applied");
    assert_eq!(applied.count(), all);
    let mut http: Http = node.http();
    let total: i64 = (0..20)
        .map(|n| level(&mut http, &format!("S{n}")).on_hand)
        .sum();
    assert_eq!(total, i64::try_from(all).unwrap());
    let changes = others.kcat_reads(&node.topic_on_kafka("stock.changes"));
    assert_eq!(changes.len(), all, "no change is published twice");
    until("the gate has read all", || {
        (metric(&node, "onhand_gate_lag") == 0).then_some(())
    });
    node.stop_and_verify();
}
