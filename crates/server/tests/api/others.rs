//! What other programs write to the log and read in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use onhand_flows::topics;
use onhand_log::journal::{Durability, Journal, JournalConfig};
use onhand_log::testing::{append_and_wait, batch_of};
use onhand_log::{Ending, Log, TopicPartition};
use onhand_server::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Node};

const PARTITIONS: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

fn with_both(config: &mut Config) {
    config.partitions = Some(PARTITIONS);
    config.inbox = Some(true);
    config.views = Some(onhand_server::ViewChoice::ALL);
}

/// A record of a topic: key and value.
type Pair = (String, Value);

/// All records of a topic in the order of each partition.
fn read(node: &Node, topic: &str) -> Vec<Pair> {
    let mut found = Vec::new();
    for partition in 0..PARTITIONS {
        let mut offset = 0;
        loop {
            let path = format!(
                "/v1/topics/{topic}/records?partition={partition}&offset={offset}&limit=1000"
            );
            let page = node.get(&path).json();
            let items = page["items"].as_array().unwrap();
            for item in items {
                let bytes = |name: &str| {
                    let text = item[name].as_str().unwrap_or_default();
                    STANDARD.decode(text).unwrap()
                };
                let key = String::from_utf8(bytes("key")).unwrap();
                found.push((key, serde_json::from_slice(&bytes("value")).unwrap()));
            }
            if items.is_empty() {
                break;
            }
            offset = page["next_offset"].as_i64().unwrap();
        }
    }
    found
}

fn folded(records: Vec<Pair>) -> BTreeMap<String, Value> {
    records.into_iter().collect()
}

/// Items of a list, by what names each.
fn items(node: &Node, path: &str, key: impl Fn(&Value) -> String) -> BTreeMap<String, Value> {
    let list = node.get(path).json();
    assert!(list["next_cursor"].is_null(), "all on one page");
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| (key(item), item.clone())).collect()
}

fn encoded(text: &Value) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let bytes = text.as_str().unwrap().bytes();
    bytes
        .map(|byte| match byte {
            byte if keep(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn levels(node: &Node) -> BTreeMap<String, Value> {
    items(node, "/v1/stock?limit=1000", |level| {
        format!("{}/{}", encoded(&level["sku"]), encoded(&level["location"]))
    })
}

fn reservations(node: &Node) -> BTreeMap<String, Value> {
    items(node, "/v1/reservations?limit=1000", |one| {
        one["reservation"].as_str().unwrap().to_owned()
    })
}

/// Waits until the compacted views say what the node says.
fn until_published(node: &Node) {
    let until = Instant::now() + PATIENCE;
    loop {
        let view = (
            folded(read(node, topics::LEVELS)),
            folded(read(node, topics::RESERVATIONS)),
        );
        let truth = (levels(node), reservations(node));
        if view == truth {
            return;
        }
        assert!(Instant::now() < until, "{view:#?}\n{truth:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends commands of all kinds; every answer by the command's source and id, in the order of sending.
fn drive(node: &Node) -> BTreeMap<(String, String), Vec<Answer>> {
    let fact = |id: &str, kind: &str, sku: &str, location: &str, quantity: Value| {
        json!({"source": "till/1", "id": id, "type": kind, "sku": sku, "location": location,
               "quantity": quantity})
    };
    let reserve = |id: &str, ttl: u32, lines: Value| json!({"source": "web", "id": id, "type": "reserve", "ttl_s": ttl, "lines": lines});
    let of = |id: &str, kind: &str, reservation: &str| json!({"source": "web", "id": id, "type": kind, "reservation": reservation});
    let odd = "A/1 \"ü\"";
    let commands = [
        json!({"source": "till/1", "id": "i", "type": "item", "sku": "KG", "decimals": 2}),
        fact("1", "receive", "KG", "main", json!("2.5")),
        fact("2", "receive", odd, "east", json!(10)),
        fact("3", "receive", odd, "west", json!(4)),
        fact("4", "ship", odd, "west", json!(6)),
        fact("4", "ship", odd, "west", json!(6)),
        fact("4", "ship", odd, "west", json!(7)),
        json!({"source": "till/1", "id": "5", "type": "move", "sku": odd, "quantity": 3,
               "from": {"location": "east"}, "to": {"location": "north", "state": "damaged"}}),
        json!({"source": "till/1", "id": "6", "type": "count", "sku": odd, "location": "east",
               "quantity": 9}),
        fact("7", "receive", "B", "main", json!(5)),
        reserve(
            "r1",
            900,
            json!([{"sku": odd, "quantity": 2, "location": "east"},
                                  {"sku": "B", "quantity": 1}]),
        ),
        reserve("r2", 900, json!([{"sku": "B", "quantity": 50}])),
        reserve("r2", 900, json!([{"sku": "B", "quantity": 50}])),
        reserve(
            "r3",
            1,
            json!([{"sku": "B", "quantity": 1}, {"sku": "KG", "quantity": "0.25"}]),
        ),
        of("c1", "confirm", "web/r1"),
        json!({"source": "web", "id": "s1", "type": "ship", "sku": "B", "location": "main",
               "quantity": 1, "reservation": "web/r1"}),
        of("x1", "release", "web/r1"),
        of("x2", "release", "nothing"),
        json!({"source": "shop", "id": "o1", "type": "commit", "reservation": "order 1",
               "lines": [{"sku": "B", "quantity": 9, "location": "main"}]}),
    ];
    let mut answers: BTreeMap<_, Vec<Answer>> = BTreeMap::new();
    for command in commands {
        let name = |key: &str| command[key].as_str().unwrap().to_owned();
        let answer = node.command(&command.to_string());
        let key = (name("source"), name("id"));
        answers.entry(key).or_default().push(answer);
    }
    answers
}

#[test]
fn the_views_say_what_the_feed_and_the_reads_say() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_on(dir.path(), with_both);
    let answers = drive(&node);
    let until = Instant::now() + PATIENCE;
    while node.get("/v1/reservations/web%2Fr3").json()["state"] != "expired" {
        assert!(Instant::now() < until, "web/r3 does not expire");
        std::thread::sleep(Duration::from_millis(20));
    }
    until_published(&node);

    // Each outcome as it was answered, without the levels: they have topics of their own.
    let mut outcomes: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    for (key, outcome) in read(&node, topics::OUTCOMES) {
        let (source, id) = (&outcome["source"], &outcome["id"]);
        assert_eq!(key, format!("{}/{}", encoded(source), encoded(id)));
        let name = |value: &Value| value.as_str().unwrap().to_owned();
        let name = (name(source), name(id));
        outcomes.entry(name).or_default().push(outcome);
    }
    assert_eq!(outcomes.len(), answers.len());
    for (name, answers) in &answers {
        let told = outcomes[name].iter();
        assert_eq!(told.len(), answers.len(), "{name:?}");
        for (told, answer) in told.zip(answers) {
            let mut answer = (answer.status, answer.json());
            if answer.0 >= 400 {
                // A problem: its word is under another name, and it has members of its own.
                let problem = answer.1.as_object_mut().unwrap();
                let word = problem.remove("outcome").unwrap();
                problem.insert("status".to_owned(), word);
                for own in ["type", "title", "retryable"] {
                    problem.remove(own);
                }
                if told.get("detail").is_none() {
                    problem.remove("detail");
                }
            }
            answer.1.as_object_mut().unwrap().remove("levels");
            if let Some(first) = answer.1.get_mut("first") {
                first.as_object_mut().unwrap().remove("levels");
            }
            assert_eq!(*told, answer.1);
        }
    }

    // Each change as the feed shows it, in its order; but each topic partition speaks of itself only.
    let views = read(&node, topics::CHANGES);
    let by_sku = |changes: Vec<Value>| {
        let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for mut change in changes {
            change.as_object_mut().unwrap().remove("position").unwrap();
            let sku = change["sku"].as_str().unwrap().to_owned();
            all.entry(sku).or_default().push(change);
        }
        all
    };
    let mut feed = node.feed("?since=earliest", &[]);
    let told: Vec<_> = views.iter().map(|_| feed.change().unwrap().data).collect();
    let view: Vec<_> = views.iter().map(|(_, change)| change.clone()).collect();
    assert_eq!(by_sku(view), by_sku(told));

    // A change's position leads a feed of its SKU to what follows.
    let of_sku: Vec<_> = views
        .iter()
        .filter(|(key, _)| key.starts_with("A/1"))
        .collect();
    assert!(of_sku.len() > 4);
    for pair in of_sku.windows(2) {
        let [(_, change), (_, next)] = pair else {
            panic!()
        };
        let position = change["position"].as_str().unwrap();
        let query = format!("?since={position}&sku=A%2F1%20%22%C3%BC%22");
        let mut follow = node.feed(&query, &[]);
        let mut told = follow.change().unwrap().data;
        let mut next = next.clone();
        for change in [&mut told, &mut next] {
            change.as_object_mut().unwrap().remove("position").unwrap();
        }
        assert_eq!(told, next);
    }
    drop(feed);
    drop(node);

    // Nothing comes twice after a restart, and nothing is left out.
    let node = Node::start_on(dir.path(), with_both);
    node.command(r#"{"id":"last","type":"receive","sku":"B","location":"main","quantity":1}"#);
    until_published(&node);
    let more = read(&node, topics::CHANGES);
    assert_eq!(more.len(), views.len() + 1);
    let all = read(&node, topics::OUTCOMES).len();
    assert_eq!(all, outcomes.values().map(Vec::len).sum::<usize>() + 1);
    let metrics = node.get("/metrics").text();
    for line in [
        "onhand_gate_partitions 4",
        "onhand_gate_partitions_stopped 0",
        "onhand_gate_lag 0",
        "onhand_views_partitions_stopped 0",
        "onhand_views_retries_total 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

/// What another program wrote while no node ran.
fn write_inbox(dir: &Path, commands: &[(u16, &str)]) {
    let log = Journal::open(JournalConfig {
        durability: Durability::Os,
        ..JournalConfig::new(dir.join("journal"))
    })
    .unwrap();
    let topic = log.create_topic(&topics::inbox_spec(PARTITIONS)).unwrap();
    let token = log.claim("somebody").unwrap();
    for (partition, command) in commands {
        let at = TopicPartition {
            topic,
            partition: *partition,
        };
        let batches = vec![(at, batch_of(0, command.as_bytes()))];
        assert_eq!(append_and_wait(&log, &token, batches), Ending::Durable);
    }
    log.close().unwrap();
}

#[test]
fn commands_in_the_inbox_are_decided_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let receive = r#"{"type":"receive","sku":"A","location":"m","quantity":2}"#;
    let reserve = r#"{"id":"r","type":"reserve","lines":[{"sku":"A","quantity":3}]}"#;
    write_inbox(
        dir.path(),
        &[
            (0, receive),
            (1, receive),
            (2, "?"),
            (1, receive),
            (3, r#"{"id":"u","type":"item","sku":"A","unit":"kg"}"#),
        ],
    );
    let told = |node: &Node, id: &str, status: &str| {
        let until = Instant::now() + PATIENCE;
        loop {
            let outcomes = folded(read(node, topics::OUTCOMES));
            // A command without a name has its place behind the log's own id.
            let mut named = outcomes.iter().filter(|(key, _)| {
                key.strip_prefix("inbox/").is_some_and(|name| {
                    name == id || name.split_once('-').is_some_and(|(_, place)| place == id)
                })
            });
            let outcome = named.next().map(|(_, outcome)| outcome);
            if outcome.is_some_and(|outcome| outcome["status"] == status) {
                return;
            }
            assert!(Instant::now() < until, "no {status} of {id}: {outcomes:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let node = Node::start_on(dir.path(), with_both);
    for id in ["0-0", "1-0", "1-1", "u"] {
        told(&node, id, "applied");
    }
    assert_eq!(node.get("/v1/stock/A/m").json()["on_hand"], 6);
    let letters = node
        .get("/v1/topics/dead-letters/records?partition=2")
        .json();
    assert_eq!(letters["items"].as_array().unwrap().len(), 1, "{letters}");
    drop(node);

    // What is written while nobody is there waits; what was taken is not taken again.
    write_inbox(dir.path(), &[(2, reserve), (0, reserve)]);
    let node = Node::start_on(dir.path(), with_both);
    told(&node, "r", "duplicate");
    let level = node.get("/v1/stock/A/m").json();
    assert_eq!(
        (&level["on_hand"], &level["reserved"]),
        (&json!(6), &json!(3))
    );
    let outcomes = read(&node, topics::OUTCOMES);
    let duplicates = outcomes.iter().filter(|(_, o)| o["status"] == "duplicate");
    assert_eq!(duplicates.count(), 1, "{outcomes:?}");
}

#[test]
fn a_journal_has_no_topics_for_others_unless_it_was_asked_for() {
    let node = Node::start();
    let topics = node.get("/v1/topics").text();
    assert!(topics.contains("stock.decisions"));
    for name in ["stock.inbox", "stock.changes", "stock.levels"] {
        assert!(!topics.contains(name), "{topics}");
    }
    assert!(!node.get("/metrics").text().contains("onhand_gate"));
}
