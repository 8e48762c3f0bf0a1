//! Several nodes on one log: whichever is asked answers, whoever owns decides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onhand_log::Log as _;
use onhand_log::cluster::Ended;
use onhand_log::memory::Fault;
use onhand_log::partition_of;
use serde_json::Value;

use crate::support::{Answer, Node};
use crate::table::Table;

pub(crate) const PARTITIONS: u16 = 4;

/// Two nodes: `a` has the partitions 0 and 1, `b` has 2 and 3.
fn pair() -> (Arc<Table>, Node, Node) {
    let table = Table::new(PARTITIONS);
    let [a, b] = ["a", "b"].map(|name| {
        Node::seated(&table, name, |config| {
            config.partitions = Some(PARTITIONS);
            config.limits.forward_wait = Duration::from_secs(3);
        })
    });
    for partition in 0..PARTITIONS {
        table.assign(partition, if partition < 2 { "a" } else { "b" });
    }
    table.settle();
    (table, a, b)
}

/// One node that has all partitions.
fn one(change: impl FnOnce(&mut onhand_server::Config)) -> (Arc<Table>, Node) {
    let table = Table::new(PARTITIONS);
    let node = Node::seated(&table, "a", |config| {
        config.partitions = Some(PARTITIONS);
        change(config);
    });
    (0..PARTITIONS).for_each(|partition| table.assign(partition, "a"));
    table.settle();
    wait_until("it is ready", || is_ready(&node));
    (table, node)
}

/// A name that begins so and belongs to that partition.
pub(crate) fn key_in(partition: u16, prefix: &str) -> String {
    (0..)
        .map(|n| format!("{prefix}{n}"))
        .find(|key| partition_of(key.as_bytes(), PARTITIONS) == partition)
        .unwrap()
}

pub(crate) fn receive(id: &str, sku: &str, quantity: u32) -> String {
    format!(
        r#"{{"id":"{id}","source":"t","type":"receive","sku":"{sku}","location":"m","quantity":{quantity}}}"#
    )
}

fn is_ready(node: &Node) -> bool {
    node.get("/readyz").status == 200
}

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What an answer says, but for when it was said.
fn said(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    headers.sort();
    (answer.status, headers, answer.text())
}

#[test]
fn every_address_answers_the_same_at_every_instance() {
    let (_table, a, b) = pair();
    let skus: Vec<String> = (0..PARTITIONS).map(|p| key_in(p, "SKU-")).collect();
    for (n, sku) in skus.iter().enumerate() {
        let node = [&a, &b][n % 2];
        let answer = node.command(&receive(&format!("r{n}"), sku, 10));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // A count that disagrees, so that there is a conflict.
    let count = format!(
        r#"{{"id":"c","source":"t","type":"count","sku":"{}","location":"m","quantity":7}}"#,
        skus[3]
    );
    assert_eq!(a.command(&count).status, 200);
    let ids: Vec<String> = (0..PARTITIONS).map(|p| key_in(p, "order-")).collect();
    for (n, id) in ids.iter().enumerate() {
        let node = [&b, &a][n % 2];
        let body = format!(
            r#"{{"id":"{id}","source":"t","reservation":"{id}","ttl_s":3600,"lines":[
                {{"sku":"{}","location":"m","quantity":1}},{{"sku":"{}","location":"m","quantity":1}}]}}"#,
            skus[n],
            skus[(n + 1) % 4]
        );
        let answer = node.post("/v1/reservations", &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(
            answer.header("location"),
            Some(&*format!("/v1/reservations/{id}"))
        );
        let confirm = format!("/v1/reservations/{id}/confirm");
        let body = format!(r#"{{"id":"{id}-c","source":"t"}}"#);
        assert_eq!(node.post(&confirm, &body).status, 200);
    }
    let mut paths = vec![
        "/v1/stock".to_owned(),
        "/v1/stock?limit=2".to_owned(),
        "/v1/stock?below=9".to_owned(),
        "/v1/stock/SKU".to_owned(),
        "/v1/reservations".to_owned(),
        "/v1/reservations?state=confirmed&limit=3".to_owned(),
        "/v1/reservations/none".to_owned(),
        "/v1/conflicts".to_owned(),
        "/v1/topics/stock.decisions/records?partition=3".to_owned(),
        "/v1/outcomes?source=t&id=nothing".to_owned(),
    ];
    let at = a.get(&format!("/v1/stock/{}/m", skus[3])).json()["at"].clone();
    let at = at.as_str().unwrap();
    for (sku, id) in skus.iter().zip(&ids) {
        paths.extend([
            format!("/v1/stock/{sku}"),
            format!("/v1/stock/{sku}/m"),
            format!("/v1/stock/{sku}/nowhere"),
            format!("/v1/stock/{sku}?known_at={at}"),
            format!("/v1/stock?sku={sku}&as_of={at}"),
            format!("/v1/history?sku={sku}"),
            format!("/v1/reservations/{id}"),
            format!("/v1/outcomes?source=t&id={id}"),
            format!("/v1/stock/{sku}?limt=3"),
        ]);
    }
    for path in &paths {
        let (here, there) = (a.get(path), b.get(path));
        assert_eq!(said(&here), said(&there), "{path}");
        let heads = [&a, &b].map(|node| said(&node.send("HEAD", path, &[], b"")));
        assert_eq!(heads[0], heads[1], "HEAD {path}");
        assert_eq!(heads[0].0, here.status);
    }
    for sku in &skus {
        let path = format!("/v1/stock/{sku}/m");
        let etag = a.get(&path).header("etag").unwrap().to_owned();
        let unchanged = [format!("If-None-Match: {etag}")];
        let unchanged: Vec<&str> = unchanged.iter().map(String::as_str).collect();
        for node in [&a, &b] {
            assert_eq!(node.send("GET", &path, &unchanged, b"").status, 304);
            let wrong = node.command(&receive("x", sku, 1).replace("receive", "recieve"));
            assert_eq!(wrong.status, 422, "{}", wrong.text());
        }
        // A header that names the command goes on with it.
        let keyed = |node: &Node| {
            let body = receive("", sku, 1).replace(r#""id":"","#, "");
            let headers = ["Content-Type: application/json", "Idempotency-Key: same"];
            node.send("POST", "/v1/commands", &headers, body.as_bytes())
        };
        let (first, again) = (keyed(&a), keyed(&b));
        assert_eq!((first.status, again.status), (200, 200), "{}", again.text());
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    let metrics = a.get("/metrics").text();
    assert!(metrics.contains("onhand_partitions_owned 2"), "{metrics}");
    assert!(
        !metrics.contains("onhand_requests_forwarded_total 0"),
        "{metrics}"
    );
}

#[test]
fn the_cluster_is_shown_and_an_instance_is_ready_once_what_is_its_own_is_open() {
    let table = Table::new(PARTITIONS);
    let a = Node::seated(&table, "a", |config| config.partitions = Some(PARTITIONS));
    table.assign(0, "a");
    // It was ready with nothing of its own, until it heard of this.
    wait_until("open", || {
        a.get("/v1/cluster").json()["partitions"][0]["open_here"] == true
    });
    wait_until("ready", || is_ready(&a));
    let ghost = "127.0.0.1:9".parse().unwrap();
    table.add("ghost", ghost);
    table.assign(1, "ghost");
    let shown = a.get("/v1/cluster").json();
    assert_eq!(shown["instance"], "a");
    assert_eq!(shown["members"][0]["name"], "a");
    assert_eq!(shown["members"][0]["me"], true);
    assert_eq!(shown["members"][0]["address"], a.address.to_string());
    assert_eq!(shown["members"][1]["me"], false);
    assert_eq!(shown["partitions"][0]["holder"], "a");
    assert_eq!(shown["partitions"][0]["open_here"], true);
    assert_eq!(shown["partitions"][1]["assigned"], "ghost");
    assert_eq!(shown["partitions"][1]["holder"], Value::Null);
    assert_eq!(shown["partitions"][1]["open_here"], false);
    assert_eq!(shown["partitions"][2]["assigned"], Value::Null);
    // A node that has its log for itself shows itself.
    let alone = Node::start();
    let shown = alone.get("/v1/cluster").json();
    assert_eq!(shown["members"].as_array().unwrap().len(), 1);
    assert_eq!(shown["members"][0]["address"], alone.address.to_string());
    assert_eq!(shown["partitions"].as_array().unwrap().len(), 16);
    assert_eq!(shown["partitions"][15]["open_here"], true);
}

#[test]
fn what_came_from_another_instance_is_never_handed_on() {
    let (_table, a, b) = pair();
    let sku = key_in(3, "S");
    let forwarded = ["Content-Type: application/json", "Onhand-Forwarded: b"];
    let refused = a.send(
        "POST",
        "/v1/commands",
        &forwarded,
        receive("1", &sku, 1).as_bytes(),
    );
    assert_eq!(refused.status, 421, "{}", refused.text());
    assert_eq!(refused.json()["type"], "urn:onhand:problem:moved");
    let refused = a.send(
        "GET",
        &format!("/v1/history?sku={sku}"),
        &forwarded[1..],
        b"",
    );
    assert_eq!(refused.status, 421);
    assert_eq!(
        b.get(&format!("/v1/stock/{sku}")).status,
        404,
        "nothing was taken"
    );
    let answer = b.send(
        "POST",
        "/v1/commands",
        &forwarded,
        receive("1", &sku, 1).as_bytes(),
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn a_key_whose_owner_is_dead_is_refused_after_the_deadline_and_served_when_it_moved() {
    let (table, a, _b) = pair();
    let sku = key_in(3, "S");
    assert_eq!(a.command(&receive("1", &sku, 1)).status, 200);
    // The owner is dead, and nobody knows yet: its address answers nothing.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    table.add("ghost", gone.local_addr().unwrap());
    drop(gone);
    table.assign(3, "ghost");
    wait_until("b closed it", || {
        a.get("/v1/cluster").json()["partitions"][3]["holder"] == Value::Null
    });
    let paths = [format!("/v1/stock/{sku}"), "/v1/stock".to_owned()];
    for path in &paths {
        let began = Instant::now();
        let answer = a.get(path);
        assert!(
            began.elapsed() >= Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:onhand:problem:no_owner");
        assert!(answer.header("retry-after").is_some());
    }
    let answer = a.command(&receive("2", &sku, 1));
    assert_eq!(
        (answer.status, answer.json()["retryable"].clone()),
        (503, Value::Bool(true))
    );
    let stream = a.stream("", &(receive("3", &sku, 1) + "\n"));
    assert_eq!(
        stream[0]["problem"]["type"], "urn:onhand:problem:no_owner",
        "{stream:?}"
    );
    // A feed needs nobody to be alive.
    let mut feed = a.feed("?since=earliest", &[]);
    assert_eq!(feed.change().unwrap().data["sku"], sku);
    // It moves while somebody waits.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| a.command(&receive("2", &sku, 1)));
        std::thread::sleep(Duration::from_millis(300));
        table.end("ghost", Ended::Silent, Some("a"));
        assert_eq!(asked.join().unwrap().status, 200);
    });
    assert_eq!(a.get(&paths[0]).json()["total"]["on_hand"], 2);
}

#[test]
fn while_partitions_move_no_command_has_two_effects_and_none_is_lost() {
    const SKUS: u64 = 8;
    let (table, a, b) = pair();
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let odd = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4u64)
            .map(|client| {
                let (a, b, stop, sent) = (&a, &b, &stop, &sent);
                scope.spawn(move || {
                    let mut odd = BTreeMap::new();
                    let mut n = 0;
                    while !stop.load(Ordering::SeqCst) {
                        n += 1;
                        let line = receive(&format!("{client}-{n}"), &format!("S{}", n % SKUS), 1);
                        for attempt in 0.. {
                            let node = [a, b][((client + n + attempt) % 2) as usize];
                            let answer = node.command(&line);
                            if answer.status == 200 {
                                break;
                            }
                            let kind = answer.json()["type"].as_str().unwrap().to_owned();
                            *odd.entry((answer.status, kind)).or_insert(0) += 1;
                            assert!(attempt < 100);
                        }
                        sent.fetch_add(1, Ordering::SeqCst);
                        let read =
                            [a, b][(n % 2) as usize].get(&format!("/v1/stock/S{}", n % SKUS));
                        assert_eq!(read.status, 200, "{}", read.text());
                    }
                    odd
                })
            })
            .collect();
        for turn in 0..12u16 {
            std::thread::sleep(Duration::from_millis(150));
            let name = if (turn / PARTITIONS).is_multiple_of(2) {
                "b"
            } else {
                "a"
            };
            table.assign(turn % PARTITIONS, name);
            table.settle();
        }
        stop.store(true, Ordering::SeqCst);
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    for ((status, kind), _) in odd.into_iter().flatten() {
        assert_eq!(status, 503, "{kind}");
        let known = ["no_owner", "unknown_end", "stopped"];
        assert!(known.iter().any(|known| kind.ends_with(known)), "{kind}");
    }
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent > 50, "{sent}");
    for node in [&a, &b] {
        let items = node.get("/v1/stock").json()["items"]
            .as_array()
            .unwrap()
            .clone();
        let sum: u64 = items
            .iter()
            .map(|level| level["on_hand"].as_u64().unwrap())
            .sum();
        assert_eq!(sum, sent);
    }
}

/// The ids of a SKU's history, in order.
fn ids(node: &Node, sku: &str) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node
            .get(&format!("/v1/history?sku={sku}&limit=1000{cursor}"))
            .json();
        for entry in page["items"].as_array().unwrap() {
            ids.push(entry["cause"]["id"].as_str().unwrap().parse().unwrap());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

#[test]
fn a_stream_is_taken_once_and_in_order_while_partitions_move() {
    const LINES: u64 = 50_000;
    const SKUS: u64 = 20;
    let (table, a, b) = pair();
    let lines: String = (1..=LINES)
        .map(|n| receive(&n.to_string(), &format!("S{}", n % SKUS), 1) + "\n")
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moves = 0u16;
            while !stop.load(Ordering::SeqCst) {
                let name = if (moves / PARTITIONS).is_multiple_of(2) {
                    "a"
                } else {
                    "b"
                };
                table.assign(moves % PARTITIONS, name);
                table.settle();
                moves += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            moves
        });
        let answer = a.stream("?results=problems", &lines);
        stop.store(true, Ordering::SeqCst);
        let moves = mover.join().unwrap();
        assert!(moves > 4, "{moves}");
        assert_eq!(answer.len(), 1, "{:?}", &answer[..answer.len().min(3)]);
        assert_eq!(answer[0]["totals"]["applied"], LINES, "{answer:?}");
    });
    for n in 0..SKUS {
        let ids = ids(&b, &format!("S{n}"));
        assert_eq!(ids.len() as u64, LINES / SKUS);
        assert!(ids.is_sorted(), "S{n}");
    }
    // Sent again, to the other one and answered in full, it changes nothing.
    let again = b.stream("", &lines);
    assert_eq!(again.len() as u64, LINES + 1);
    assert_eq!(again.last().unwrap()["totals"]["duplicate"], LINES);
}

#[test]
fn a_stream_of_reservations_gets_each_outcome_from_whoever_decides_it() {
    let (_table, a, b) = pair();
    let skus: Vec<String> = (0..PARTITIONS).map(|p| key_in(p, "K")).collect();
    for (n, sku) in skus.iter().enumerate() {
        assert_eq!(b.command(&receive(&format!("r{n}"), sku, 100)).status, 200);
    }
    let lines: String = (0..200)
        .map(|n: usize| {
            format!(
                r#"{{"id":"o{n}","source":"t","type":"reserve","reservation":"o{n}","ttl_s":3600,"lines":[{{"sku":"{}","location":"m","quantity":1}},{{"sku":"{}","location":"m","quantity":1}}]}}"#,
                skus[n % 4],
                skus[(n + 1) % 4]
            ) + "\n"
        })
        .collect();
    let answer = a.stream("", &lines);
    assert_eq!(answer.len(), 201, "{:?}", answer.last());
    assert_eq!(answer[200]["totals"]["granted"], 200, "{:?}", answer[200]);
    let ids: Vec<&str> = answer[..200]
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    let sent: Vec<String> = (0..200).map(|n| format!("o{n}")).collect();
    assert_eq!(ids, sent);
}

/// The (sku, sequence) of the next changes.
fn changes(feed: &mut crate::support::Feed, count: usize) -> BTreeSet<(String, u64)> {
    let next = (0..count).map(|_| {
        let change = feed.change().unwrap().data;
        (
            change["sku"].as_str().unwrap().to_owned(),
            change["sequence"].as_u64().unwrap(),
        )
    });
    next.collect()
}

#[test]
fn a_feed_at_any_instance_shows_all_partitions_and_is_resumed_at_another() {
    let (_table, a, b) = pair();
    let skus: Vec<String> = (0..PARTITIONS).map(|p| key_in(p, "F")).collect();
    let all = |sequence: u64| skus.iter().map(|sku| (sku.clone(), sequence)).collect();
    let mut live = [a.feed("", &[]), b.feed("?snapshot=true", &[])];
    while live[1].event().unwrap().name != "snapshot_end" {}
    for (n, sku) in skus.iter().enumerate() {
        assert_eq!(a.command(&receive(&format!("1-{n}"), sku, 1)).status, 200);
    }
    for feed in &mut live {
        assert_eq!(changes(feed, 4), all(1));
    }
    // What an answer of one instance says is a place to begin at the other.
    let last = b.command(&receive("2-0", &skus[0], 1)).json();
    let position = last["position"].as_str().unwrap();
    let mut one = b.feed(&format!("?since={position}&sku={}", skus[0]), &[]);
    assert_eq!(a.command(&receive("3-0", &skus[0], 1)).status, 200);
    assert_eq!(changes(&mut one, 1), BTreeSet::from([(skus[0].clone(), 3)]));
    // The position of a feed, where it was read and elsewhere.
    let mut feed = a.feed("?since=earliest", &[]);
    let mut position = String::new();
    for _ in 0..3 {
        position = feed.change().unwrap().id.unwrap();
    }
    let rest = |node: &Node| changes(&mut node.feed(&format!("?since={position}"), &[]), 3);
    assert_eq!(rest(&a), rest(&b));
    let mut levels = b.feed("?snapshot=true", &[]);
    let mut shown = BTreeSet::new();
    loop {
        let event = levels.event().unwrap();
        if event.name == "snapshot_end" {
            break;
        }
        shown.insert(event.data["sku"].as_str().unwrap().to_owned());
    }
    assert_eq!(shown, skus.iter().cloned().collect());
}

/// Whoever asks for what comes from now on, at any instance, is told nothing of before, of no partition.
#[test]
fn a_feed_from_the_newest_on_begins_there_in_all_partitions() {
    let (_table, a, b) = pair();
    let skus: Vec<String> = (0..PARTITIONS).map(|p| key_in(p, "N")).collect();
    let all = |sequence: u64| skus.iter().map(|sku| (sku.clone(), sequence)).collect();
    for round in 1..=3 {
        for (n, sku) in skus.iter().enumerate() {
            let told = a.command(&receive(&format!("{round}-{n}"), sku, 1));
            assert_eq!(told.status, 200);
        }
    }
    let mut live = [a.feed("", &[]), b.feed("", &[])];
    for (n, sku) in skus.iter().enumerate() {
        assert_eq!(b.command(&receive(&format!("4-{n}"), sku, 1)).status, 200);
    }
    for feed in &mut live {
        assert_eq!(changes(feed, 4), all(4));
    }
    // And no later: what a snapshot says it holds is not told again, and nothing behind it is left out.
    let mut live = [a.feed("?snapshot=true", &[]), b.feed("?snapshot=true", &[])];
    for feed in &mut live {
        while feed.event().unwrap().name != "snapshot_end" {}
    }
    for (n, sku) in skus.iter().enumerate() {
        assert_eq!(a.command(&receive(&format!("5-{n}"), sku, 1)).status, 200);
    }
    for feed in &mut live {
        assert_eq!(changes(feed, 4), all(5));
    }
}

/// What is decided while a snapshot is read, here or elsewhere, comes at any moment between one look and
/// the next: it is waited for.
#[test]
fn a_feed_waits_for_what_the_log_here_shows_late() {
    let (table, a, b) = pair();
    let sku = key_in(0, "W");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let told = a.command(&receive(&format!("{id}"), &sku, 1));
                assert_eq!(told.status, 200, "{}", told.text());
            }
        });
        let read = |round: u64| {
            table.show_late(Duration::from_micros(round * 137 % 20_000));
            // One of them has the SKU's partition, the other has it from there.
            let node = [&a, &b][usize::from(round.is_multiple_of(2))];
            let mut feed = node.feed("?snapshot=true", &[]);
            std::iter::from_fn(|| feed.event())
                .find(|event| event.name == "snapshot_end" || event.name == "closed")
                .map(|event| (event.name, event.data))
        };
        let is_whole = |end: &Option<(String, Value)>| {
            end.as_ref().is_some_and(|(name, _)| name == "snapshot_end")
        };
        let cut = (1..=200).map(read).find(|end| !is_whole(end));
        done.store(true, Ordering::Relaxed);
        assert_eq!(cut, None);
    });
}

#[test]
fn an_instance_that_leaves_gives_up_what_it_has_and_the_others_answer() {
    let (table, mut a, b) = pair();
    let sku = key_in(0, "L");
    assert_eq!(b.command(&receive("1", &sku, 1)).status, 200);
    a.begin_stop();
    let began = Instant::now();
    let answer = b.command(&receive("2", &sku, 1));
    assert_eq!(
        answer.status,
        200,
        "{} after {:?}",
        answer.text(),
        began.elapsed()
    );
    table.settle();
    drop(a);
    assert_eq!(
        b.get(&format!("/v1/stock/{sku}")).json()["total"]["on_hand"],
        2
    );
    assert!(is_ready(&b));
}

#[test]
fn an_instance_that_was_given_up_begins_anew_behind_the_same_address() {
    let (table, a, b) = pair();
    let sku = key_in(2, "R");
    assert_eq!(a.command(&receive("1", &sku, 1)).status, 200);
    let mut feed = b.feed("", &[]);
    table.end("b", Ended::Silent, Some("a"));
    assert_eq!(a.command(&receive("2", &sku, 1)).status, 200);
    // Its feeds end with their positions, or with the connection.
    while feed.event().is_some_and(|event| event.name != "closed") {}
    wait_until("b is back", || {
        let members = a.get("/v1/cluster").json()["members"].clone();
        members.as_array().unwrap().len() == 2
    });
    table.assign(2, "b");
    table.settle();
    wait_until("b answers", || b.get("/readyz").status == 200);
    assert_eq!(b.command(&receive("3", &sku, 1)).status, 200);
    for node in [&a, &b] {
        assert_eq!(
            node.get(&format!("/v1/stock/{sku}")).json()["total"]["on_hand"],
            3
        );
    }
}

/// As when it did not give a partition up in time: the others know it as alive all the while.
#[test]
fn an_instance_that_was_fenced_though_it_lives_begins_anew() {
    let (table, a, b) = pair();
    let sku = key_in(2, "R");
    assert_eq!(a.command(&receive("1", &sku, 1)).status, 200);
    let before = a.get("/v1/cluster").json()["members"][1]["incarnation"].clone();
    table.log.claim("stock/2").unwrap();
    // Nothing of it is written; whoever asks while it begins anew is told to come again.
    assert_eq!(b.command(&receive("2", &sku, 1)).status, 503);
    wait_until("b is another member", || {
        let members = a.get("/v1/cluster").json()["members"].clone();
        members[1]["name"] == "b" && members[1]["incarnation"] != before
    });
    table.settle();
    wait_until("b answers", || b.get("/readyz").status == 200);
    assert_eq!(b.command(&receive("2", &sku, 1)).status, 200);
    for node in [&a, &b] {
        assert_eq!(
            node.get(&format!("/v1/stock/{sku}")).json()["total"]["on_hand"],
            2
        );
    }
}

#[test]
fn an_instance_whose_name_was_taken_ends_and_says_so() {
    let (table, a, b) = pair();
    table.end("b", Ended::Replaced, Some("a"));
    let error = b.ended().unwrap_err().to_string();
    assert!(
        error.contains("\"b\"") && error.contains("--instance"),
        "{error}"
    );
    table.settle();
    assert!(is_ready(&a));
}

/// A `seq` that was passed over is never applied: what came behind a line that failed would lose it.
#[test]
fn once_a_line_of_a_stream_failed_none_behind_it_is_applied() {
    // One chunk of lines is on its way at a time; the next one waits for its room.
    let (table, node) = one(|config| config.limits.in_flight_bytes = 1);
    let sku = key_in(0, "Q");
    let line = |seq: u32| {
        let line = receive(&seq.to_string(), &sku, 1);
        line.replace("{\"id\"", &format!("{{\"seq\":{seq},\"id\"")) + "\n"
    };
    let mut stream = node.connect();
    let head = "POST /v1/commands HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut send = |line: &str| write!(stream, "{:x}\r\n{line}\r\n", line.len()).unwrap();
    table.log.hold();
    table.log.inject(Fault::Aborted);
    let before = table.log.stats().appends;
    send(&line(1));
    wait_until("the first is taken in", || {
        table.log.stats().appends > before
    });
    send(&line(2));
    // Time to be read; where it is too short, this proves less and fails no sooner.
    std::thread::sleep(Duration::from_millis(300));
    table.log.release();
    stream.write_all(b"0\r\n\r\n").unwrap();
    let answer = Answer::read(stream).lines();
    assert_eq!(answer.len(), 1, "{answer:?}");
    let problem = &answer[0]["problem"]["type"];
    assert_eq!(problem, "urn:onhand:problem:unknown_end", "{answer:?}");
    let again = node.stream("", &(line(1) + &line(2)));
    assert_eq!(again[2]["totals"]["applied"], 2, "{again:?}");
}

#[test]
fn a_read_is_answered_in_time_while_the_log_says_nothing() {
    let (table, node) = one(|config| config.limits.forward_wait = Duration::from_millis(300));
    let sku = key_in(0, "T");
    let path = format!("/v1/stock/{sku}");
    table.log.hold();
    let before = table.log.stats().appends;
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| node.command(&receive("1", &sku, 1)));
        wait_until("it is taken in", || table.log.stats().appends > before);
        let answer = node.get(&path);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:onhand:problem:busy");
        assert!(answer.header("retry-after").is_some());
        table.log.release();
        assert_eq!(asked.join().unwrap().status, 200);
    });
    assert_eq!(node.get(&path).json()["total"]["on_hand"], 1);
}

/// Another one may own by now what it has. Who allows that an answer is old gets one, and is told how old.
#[test]
fn an_instance_that_nobody_hears_says_nothing_of_how_things_are() {
    let (table, node) = one(|config| config.limits.forward_wait = Duration::from_millis(300));
    let sku = key_in(0, "T");
    let path = format!("/v1/stock/{sku}");
    let listed = format!("/v1/stock?sku={sku}");
    assert_eq!(node.command(&receive("1", &sku, 1)).status, 200);
    table.hear("a", false);
    for path in [&path, &listed, &format!("/v1/history?sku={sku}")] {
        let answer = node.get(path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert_eq!(answer.json()["type"], "urn:onhand:problem:no_owner");
    }
    std::thread::sleep(Duration::from_millis(20));
    let old = node.get(&format!("/v1/stock/{sku}/m?max_stale_ms=60000"));
    assert_eq!(old.status, 200, "{}", old.text());
    let stale: u64 = old.header("onhand-stale-ms").unwrap().parse().unwrap();
    assert!(stale >= 20, "{stale}");
    assert_eq!(old.json()["on_hand"], 1);
    // What it decides is durable or comes to nothing: that needs nobody to hear it.
    assert_eq!(node.command(&receive("2", &sku, 1)).status, 200);
    table.hear("a", true);
    assert_eq!(node.get(&path).json()["total"]["on_hand"], 2);
}
