//! The feed: resume, filters, snapshots, and readers that do not read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Feed, Node};

fn receive(node: &Node, id: &str, sku: &str) {
    let line =
        format!(r#"{{"id":"{id}","type":"receive","sku":"{sku}","location":"m","quantity":1}}"#);
    assert_eq!(node.command(&line).status, 200);
}

fn lines(from: usize, to: usize, skus: usize) -> String {
    (from..to)
        .map(|n| {
            format!(
                "{{\"id\":\"{n}\",\"source\":\"b\",\"type\":\"receive\",\"sku\":\"S{}\",\"location\":\"m\",\"quantity\":1}}\n",
                n % skus
            )
        })
        .collect()
}

/// Every change bears the next sequence of its level.
fn check_sequence(last: &mut BTreeMap<String, u64>, change: &Value) {
    let key = format!("{} {}", change["sku"], change["location"]);
    let sequence = change["sequence"].as_u64().unwrap();
    let before = last.insert(key, sequence).unwrap_or(0);
    assert_eq!(sequence, before + 1, "{change}");
}

#[test]
fn a_change_is_told_with_its_cause_delta_and_level() {
    let node = Node::start();
    receive(&node, "1", "A");
    let mut feed = node.feed("", &[]);
    receive(&node, "2", "A");
    let event = feed.change().unwrap();
    let change = event.data;
    assert_eq!(change["sku"], "A");
    assert_eq!(change["sequence"], 2);
    assert_eq!(change["cause"]["source"], "http");
    assert_eq!(change["cause"]["id"], "2");
    assert_eq!(change["cause"]["type"], "receive");
    assert_eq!(change["delta"]["on_hand"], 1);
    assert_eq!(change["delta"]["available"], 1);
    assert_eq!(change["level"]["on_hand"], 2);
    assert_eq!(change["position"].as_str(), event.id.as_deref());
}

#[test]
fn a_reader_that_loses_its_connection_at_random_has_every_change_once_and_in_order() {
    let node = Node::start();
    let total = 20_000;
    let mut last = BTreeMap::new();
    let mut seen = 0;
    let mut position = "earliest".to_owned();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for part in 0..40 {
                let from = part * total / 40;
                let answers = node.stream("?results=problems", &lines(from, from + total / 40, 50));
                assert_eq!(answers.len(), 1);
            }
        });
        // A cheap generator is random enough to cut anywhere.
        let mut state = 7u64;
        let mut drops = 0;
        while seen < total {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let take = 1 + (state >> 33) % 180;
            let mut feed = if drops % 2 == 0 {
                node.feed(&format!("?since={position}"), &[])
            } else {
                node.feed("", &[&format!("Last-Event-ID: {position}")])
            };
            assert_eq!(feed.status, 200);
            for _ in 0..take {
                let event = feed.change().unwrap();
                check_sequence(&mut last, &event.data);
                position = event.id.unwrap();
                seen += 1;
                if seen == total {
                    break;
                }
            }
            drops += 1;
        }
        assert!(drops >= 200, "{drops}");
        writing.join().unwrap();
    });
    let all: u64 = last.values().sum();
    assert_eq!(all, total as u64);
}

#[test]
fn a_decision_with_several_changes_is_resumed_between_them() {
    let node = Node::start();
    receive(&node, "1", "A");
    let mut feed = node.feed("", &[]);
    node.command(
        r#"{"id":"m","type":"move","sku":"A","quantity":1,"from":{"location":"m"},"to":{"location":"n"}}"#,
    );
    receive(&node, "2", "A");
    let first = feed.change().unwrap();
    let second = feed.change().unwrap();
    let third = feed.change().unwrap();
    assert_eq!(
        (&first.data["location"], &second.data["location"]),
        (&"m".into(), &"n".into())
    );
    for after in [&first, &second] {
        let id = after.id.as_deref().unwrap();
        let mut resumed = node.feed(&format!("?since={id}"), &[]);
        if after == &first {
            assert_eq!(resumed.change().unwrap(), second);
        }
        assert_eq!(resumed.change().unwrap(), third);
    }
}

#[test]
fn filters_leave_out_the_rest_and_heartbeats_still_move() {
    let node = Node::start_with(|config| {
        config.limits.heartbeat = Duration::from_millis(100);
    });
    receive(&node, "1", "A");
    let mut feed = node.feed("?sku=B", &[]);
    let first = feed.event().unwrap();
    assert_eq!(first.name, "heartbeat");
    receive(&node, "2", "A");
    let moved = (0..50)
        .map(|_| feed.event().unwrap())
        .find(|event| event.id != first.id);
    let moved = moved.expect("a heartbeat carries the position though nothing matched");
    assert_eq!(moved.name, "heartbeat");
    receive(&node, "3", "B");
    assert_eq!(feed.change().unwrap().data["sku"], "B");
    // From the heartbeat's position on, the same follows.
    let id = moved.id.unwrap();
    let mut resumed = node.feed(&format!("?sku=B&since={id}"), &[]);
    assert_eq!(resumed.change().unwrap().data["sku"], "B");
    let mut elsewhere = node.feed("?since=earliest&location=n", &[]);
    assert_eq!(elsewhere.event().unwrap().name, "heartbeat");
}

#[test]
fn the_position_of_one_sku_resumes_only_what_keeps_to_it() {
    let node = Node::start();
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":1}"#;
    let position = node.command(line).json()["position"]
        .as_str()
        .unwrap()
        .to_owned();
    receive(&node, "2", "A");
    let mut feed = node.feed(&format!("?sku=A&since={position}"), &[]);
    assert_eq!(feed.change().unwrap().data["sequence"], 2);
    assert_eq!(node.feed(&format!("?since={position}"), &[]).status, 422);
    assert_eq!(node.feed("?since=nonsense", &[]).status, 422);
    let other = Node::start();
    assert_eq!(
        other.feed(&format!("?sku=A&since={position}"), &[]).status,
        410
    );
}

#[test]
fn ndjson_tells_the_same() {
    let node = Node::start();
    let mut sse = node.feed("", &[]);
    let mut ndjson = node.feed("", &["Accept: application/x-ndjson"]);
    for n in 0..20 {
        receive(&node, &n.to_string(), &format!("S{}", n % 3));
    }
    let mut next = || -> Value { serde_json::from_str(&ndjson.line().unwrap()).unwrap() };
    assert_eq!(next()["event"], "heartbeat");
    for _ in 0..20 {
        assert_eq!(next(), sse.change().unwrap().data);
    }
    assert_eq!(node.feed("", &["Accept: image/png"]).status, 422);
}

/// The levels that a feed builds up, by SKU.
fn take(levels: &mut BTreeMap<String, Value>, level: &Value) {
    levels.insert(level["sku"].as_str().unwrap().to_owned(), level.clone());
}

#[test]
fn a_snapshot_taken_under_load_ends_with_the_node_s_levels() {
    let node = Node::start();
    let skus = 3_000;
    node.stream("?results=problems", &lines(0, skus, skus));
    let done = AtomicBool::new(false);
    let mut levels = BTreeMap::new();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for part in 0..30 {
                let from = skus + part * 1_000;
                node.stream("?results=problems", &lines(from, from + 1_000, skus + part));
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut feed = node.feed("?snapshot=true", &[]);
        let mut shown = 0;
        let (mut within, mut after) = (0, 0);
        let mut ended: Option<String> = None;
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let expected = i64::try_from(skus + 30 * 1_000).unwrap();
        let mut sum = 0;
        while sum < expected {
            let event = feed.event().unwrap();
            let level = match event.name.as_str() {
                "level" => {
                    assert_eq!(event.id, None);
                    assert!(ended.is_none());
                    shown += 1;
                    event.data.clone()
                }
                "snapshot_end" => {
                    ended = event.id.clone();
                    assert!(ended.is_some());
                    continue;
                }
                "heartbeat" => continue,
                _ => {
                    assert_eq!(event.id.is_some(), ended.is_some());
                    if ended.is_some() {
                        after += 1;
                    } else {
                        within += 1;
                    }
                    event.data["level"].clone()
                }
            };
            let sku = level["sku"].as_str().unwrap().to_owned();
            let sequence = level["sequence"].as_u64().unwrap();
            // A level that did not exist when the snapshot began comes as its first change.
            if event.name != "level" {
                let before = last.get(&sku).copied().unwrap_or(0);
                assert_eq!(sequence, before + 1, "{sku}");
            }
            let before = levels
                .get(&sku)
                .and_then(|l: &Value| l["on_hand"].as_i64())
                .unwrap_or(0);
            sum += level["on_hand"].as_i64().unwrap() - before;
            last.insert(sku, sequence);
            take(&mut levels, &level);
        }
        eprintln!("{shown} levels, {within} changes within the snapshot, {after} behind it");
        writing.join().unwrap();
    });
    assert!(done.load(Ordering::SeqCst));
    let mut cursor = String::new();
    let mut count = 0;
    loop {
        let page = node.get(&format!("/v1/stock?limit=1000{cursor}")).json();
        for level in page["items"].as_array().unwrap() {
            assert_eq!(levels.get(level["sku"].as_str().unwrap()), Some(level));
            count += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(count, levels.len());
}

#[test]
fn a_reader_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let node = Node::start_with(|config| {
        config.limits.feed_stall = Duration::from_millis(300);
        config.limits.feed_queue = 4;
        config.limits.feed_ring_bytes = 1 << 20;
        config.limits.feed_readers = 2;
    });
    // It opens a feed and never reads.
    let mut idle = node.connect();
    idle.write_all(b"GET /v1/changes?since=earliest HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    let mut good = node.feed("", &["Accept: application/x-ndjson"]);
    let total = 60_000;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut seen = 0;
            while seen < total {
                let line = good.line().expect("the good reader is not cut off");
                seen += usize::from(line.contains("\"delta\""));
            }
            good
        });
        let began = Instant::now();
        for part in 0..6 {
            let from = part * total / 6;
            node.stream("?results=problems", &lines(from, from + total / 6, 100));
        }
        eprintln!(
            "{total} facts beside a reader that does not read: {:.1?}",
            began.elapsed()
        );
        let _good = reading.join().unwrap();
    });
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = node.get("/metrics").text();
        if metrics.contains("onhand_feed_cut_off_total 1\n") {
            break;
        }
        assert!(Instant::now() < until, "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its place is free again.
    let third: Feed = node.feed("", &[]);
    assert_eq!(third.status, 200);
}

#[test]
fn above_the_number_of_readers_the_next_is_told_to_come_again() {
    let node = Node::start_with(|config| config.limits.feed_readers = 1);
    let first = node.feed("", &[]);
    assert_eq!(first.status, 200);
    let answer = node.get("/v1/changes");
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn a_new_reader_has_a_position_before_anything_changes() {
    let node = Node::start();
    let lines = |n: u32| {
        node.command(&format!(
            r#"{{"id":"{n}","type":"receive","sku":"A","location":"m","quantity":1}}"#
        ));
    };
    lines(1);
    let mut feed = node.feed("", &[]);
    let first = feed.event().unwrap();
    assert_eq!(first.name, "heartbeat");
    let position = first.id.unwrap();
    drop(feed);
    // What changes while it is away is there when it comes again.
    lines(2);
    let last = format!("Last-Event-ID: {position}");
    let mut feed = node.feed("", &[&last]);
    let change = feed.event().unwrap();
    assert_eq!(
        (change.name.as_str(), &change.data["sequence"]),
        ("", &2.into())
    );
    let mut ndjson = node.feed("", &["Accept: application/x-ndjson"]);
    let line: Value = serde_json::from_str(&ndjson.line().unwrap()).unwrap();
    assert_eq!(line["event"], "heartbeat");
    assert!(line["position"].is_string());
}
