//! Standbys: reads that may be a little old, from whoever follows, and partitions taken over warm.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::several::{PARTITIONS, key_in, receive, wait_until};
use crate::support::{Answer, Node};
use crate::table::Table;

/// Two nodes that follow each other: `a` has the partitions 0 and 1, `b` has 2 and 3.
fn pair() -> (Arc<Table>, Node, Node) {
    let table = Table::new(PARTITIONS);
    let [a, b] = ["a", "b"].map(|name| {
        Node::seated(&table, name, |config| {
            config.partitions = Some(PARTITIONS);
            config.standbys = 1;
            config.limits.forward_wait = Duration::from_secs(3);
        })
    });
    for partition in 0..PARTITIONS {
        table.assign(partition, if partition < 2 { "a" } else { "b" });
    }
    table.settle();
    for node in [&a, &b] {
        wait_until("both follow", || followed(node).len() == 2);
    }
    (table, a, b)
}

/// The partitions whose standby is here and has been level.
fn followed(node: &Node) -> Vec<u64> {
    let cluster = node.get("/v1/cluster").json();
    let partitions = cluster["partitions"].as_array().unwrap().iter();
    let level = partitions.filter(|place| place["standby_here"]["stale_ms"].is_u64());
    level
        .map(|place| place["partition"].as_u64().unwrap())
        .collect()
}

fn stale_ms(answer: &Answer) -> Option<u64> {
    answer
        .header("onhand-stale-ms")
        .map(|ms| ms.parse().unwrap())
}

/// Asks until the standby shows that much on hand.
fn await_shown(node: &Node, path: &str, on_hand: u64) -> Answer {
    let mut last = None;
    wait_until("the standby shows it", || {
        let answer = node.get(path);
        let shows = answer.json()["on_hand"] == on_hand;
        last = Some(answer);
        shows
    });
    last.unwrap()
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = node.get("/metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {text}"))
        .parse()
        .unwrap()
}

#[test]
fn who_follows_answers_what_may_be_old_and_says_how_old() {
    let (_table, a, b) = pair();
    let sku = key_in(0, "S");
    assert_eq!(a.command(&receive("1", &sku, 10)).status, 200);
    let path = format!("/v1/stock/{sku}/m");
    let owner = a.get(&path);
    assert_eq!(stale_ms(&owner), None, "nobody asked");
    let allowed = format!("{path}?max_stale_ms=60000");
    let forwarded = metric(&b, "onhand_requests_forwarded_total");
    let answer = await_shown(&b, &allowed, 10);
    assert_eq!(answer.json(), owner.json(), "position and all");
    assert_eq!(answer.header("etag"), owner.header("etag"));
    assert!(
        stale_ms(&answer).unwrap() > 0,
        "it is never said to be fresh"
    );
    assert_eq!(metric(&b, "onhand_requests_forwarded_total"), forwarded);
    assert!(metric(&b, "onhand_requests_stale_total") > 0);
    let etag = format!("If-None-Match: {}", owner.header("etag").unwrap());
    let same = b.send("GET", &allowed, &[&etag], b"");
    assert_eq!((same.status, stale_ms(&same).is_some()), (304, true));
    // The owner is not stale; nobody here can be fresher than it can be.
    assert_eq!(stale_ms(&a.get(&allowed)), Some(0));
    for strict in [path.clone(), format!("{path}?max_stale_ms=0")] {
        let answer = b.get(&strict);
        assert_eq!(answer.json(), owner.json());
        assert!(stale_ms(&answer).unwrap_or(0) == 0);
    }
    let whole = b.get(&format!("/v1/stock/{sku}?max_stale_ms=60000"));
    assert_eq!(whole.json(), a.get(&format!("/v1/stock/{sku}")).json());
    assert!(stale_ms(&whole).unwrap() > 0);
    let list = b.get("/v1/stock?max_stale_ms=60000");
    assert_eq!(list.json(), a.get("/v1/stock").json());
    assert!(stale_ms(&list).unwrap() > 0, "half of it is the standbys'");
    // Who was asked by another instance asks nobody, and is no owner.
    let handed_on = b.send("GET", &allowed, &["Onhand-Forwarded: a"], b"");
    assert_eq!(handed_on.status, 421, "{}", handed_on.text());
    // What is not there, and what cannot be asked.
    let missing = b.get(&format!("/v1/stock/{sku}/nowhere?max_stale_ms=60000"));
    assert_eq!((missing.status, stale_ms(&missing).is_some()), (404, true));
    let missing = b.get("/v1/stock/none?max_stale_ms=60000");
    assert_eq!((missing.status, stale_ms(&missing).is_some()), (404, true));
    for wrong in [
        "max_stale_ms=x",
        "max_stale_ms=10&as_of=2026-01-01T00:00:00Z",
    ] {
        let answer = b.get(&format!("{path}?{wrong}"));
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert_eq!(answer.json()["field"], "max_stale_ms");
    }
    let answer = a.get("/v1/stock?max_stale_ms=10&as_of=2026-01-01T00:00:00Z");
    assert_eq!(answer.status, 422, "{}", answer.text());
}

#[test]
fn what_an_owner_does_not_answer_a_standby_does_within_what_is_allowed() {
    let (table, a, b) = pair();
    let sku = key_in(0, "S");
    assert_eq!(a.command(&receive("1", &sku, 10)).status, 200);
    // A third one gets the partition, and stands still: it takes connections and says nothing.
    let still = TcpListener::bind("127.0.0.1:0").unwrap();
    table.add("still", still.local_addr().unwrap());
    table.assign(0, "still");
    wait_until("a closed it", || {
        let place = b.get("/v1/cluster").json()["partitions"][0].clone();
        place["holder"] == Value::Null && place["assigned"] == "still"
    });
    let standby = b.get("/v1/cluster").json()["partitions"][0]["standbys"][0].clone();
    let (standby, other) = match standby.as_str().unwrap() {
        "a" => (&a, &b),
        "b" => (&b, &a),
        name => panic!("{name}"),
    };
    wait_until("it follows", || followed(standby).contains(&0));
    let path = format!("/v1/stock/{sku}/m?max_stale_ms=60000");
    let answer = await_shown(standby, &path, 10);
    assert!(stale_ms(&answer).unwrap() > 0);
    // Who does not follow asks the owner first, and then who does.
    wait_until("it has let go", || !followed(other).contains(&0));
    let began = Instant::now();
    let answer = other.get(&path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["on_hand"], 10);
    assert!(stale_ms(&answer).unwrap() > 0);
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "it was asked"
    );
    let list = other.get("/v1/stock?max_stale_ms=60000");
    assert_eq!(list.json()["items"][0]["on_hand"], 10, "{}", list.text());
    // Nobody is as fresh as that, and nobody owns it.
    let strict = standby.get(&format!("/v1/stock/{sku}/m?max_stale_ms=1"));
    assert!([200, 503].contains(&strict.status), "{}", strict.text());
    assert!(strict.status == 503 || stale_ms(&strict).unwrap() <= 100);
}

#[test]
fn a_partition_is_taken_over_from_its_standby_and_shown_so() {
    let (table, mut a, b) = pair();
    for partition in 0..2 {
        let sku = key_in(partition, "T");
        let id = partition.to_string();
        assert_eq!(a.command(&receive(&id, &sku, 10)).status, 200);
    }
    let shown = b.get("/v1/cluster").json();
    for (partition, place) in shown["partitions"].as_array().unwrap().iter().enumerate() {
        let standby = if partition < 2 { "b" } else { "a" };
        assert_eq!(place["standbys"], serde_json::json!([standby]));
        assert_eq!(place["standby_here"].is_null(), standby != "b", "{place}");
        assert_eq!(place["restoring"], Value::Null);
    }
    assert_eq!(shown["partitions"][0]["standby_here"]["state"], "following");
    for (name, value) in [
        ("onhand_standbys", 2),
        ("onhand_standbys_restoring", 0),
        ("onhand_opening_left", 0),
        ("onhand_standby_takeovers_total", 0),
    ] {
        assert_eq!(metric(&b, name), value, "{name}");
    }
    let text = b.get("/metrics").text();
    assert!(text.contains("\nonhand_standby_lag "), "{text}");
    assert!(text.contains("\nonhand_standby_stale_seconds "), "{text}");
    a.begin_stop();
    wait_until("b has all", || {
        metric(&b, "onhand_partitions_owned") == u64::from(PARTITIONS)
    });
    table.settle();
    assert_eq!(metric(&b, "onhand_standby_takeovers_total"), 2);
    assert_eq!(metric(&b, "onhand_standbys"), 0, "nobody else is there");
    for partition in 0..2 {
        let path = format!("/v1/stock/{}/m", key_in(partition, "T"));
        assert_eq!(b.get(&path).json()["on_hand"], 10);
    }
}
