//! The past: history, what was known, and what is known now of then.

use serde_json::Value;

use crate::support::Node;

fn send(node: &Node, id: &str, body: &str) -> Value {
    let answer = node.command(&format!("{{\"id\":\"{id}\",\"sku\":\"A\",{body}}}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn position(outcome: &Value) -> String {
    outcome["position"].as_str().unwrap().to_owned()
}

#[test]
fn a_late_message_changes_what_was_then_but_not_what_was_known_then() {
    let node = Node::start();
    let at = |time: &str| format!("\"location\":\"m\",\"occurred_at\":\"2026-01-05T{time}:00Z\"");
    let ten = at("09:00");
    send(
        &node,
        "1",
        &format!("\"type\":\"receive\",\"quantity\":10,{ten}"),
    );
    let sold = send(
        &node,
        "2",
        &format!("\"type\":\"ship\",\"quantity\":2,{}", at("10:05")),
    );
    let counted = send(
        &node,
        "3",
        &format!("\"type\":\"count\",\"quantity\":9,{}", at("10:00")),
    );
    let late = send(
        &node,
        "4",
        &format!("\"type\":\"ship\",\"quantity\":1,{}", at("09:50")),
    );
    assert_eq!(node.get("/v1/stock/A/m").json()["on_hand"], 7);

    let known = |position: &str| {
        node.get(&format!("/v1/stock/A/m?known_at={position}"))
            .json()["on_hand"]
            .clone()
    };
    assert_eq!(known(&position(&sold)), 8);
    assert_eq!(known(&position(&counted)), 7);
    assert_eq!(known(&position(&late)), 7);

    let as_of = |time: &str| {
        node.get(&format!("/v1/stock/A/m?as_of=2026-01-05T{time}:00Z"))
            .json()["on_hand"]
            .clone()
    };
    assert_eq!(as_of("09:00"), 10);
    assert_eq!(as_of("09:55"), 9);
    // The correction of the count was taken back by the late message: 9 counted, 9 there.
    assert_eq!(as_of("10:00"), 9);
    assert_eq!(as_of("10:05"), 7);
    let past = node.get("/v1/stock/A?as_of=2026-01-05T09:55:00Z");
    assert_eq!(past.json()["total"]["on_hand"], 9);
    assert_eq!(past.json()["as_of"], "2026-01-05T09:55:00Z");
    assert!(
        node.get("/v1/stock/A/m?as_of=2026-01-05T10:05:00Z")
            .header("etag")
            .is_none()
    );
    assert_eq!(
        node.get("/v1/stock/A?as_of=2026-01-05T08:00:00Z").status,
        404
    );
}

#[test]
fn the_future_other_epochs_and_nonsense_are_refused() {
    let node = Node::start();
    let outcome = send(
        &node,
        "1",
        "\"type\":\"receive\",\"location\":\"m\",\"quantity\":1",
    );
    let status = |query: &str| node.get(&format!("/v1/stock/A/m?{query}")).status;
    assert_eq!(status("as_of=2999-01-01T00:00:00Z"), 422);
    assert_eq!(status("known_at=2999-01-01T00:00:00Z"), 422);
    assert_eq!(status("known_at=yesterday"), 422);
    assert_eq!(
        status("as_of=2026-01-01T00:00:00Z&known_at=2026-01-01T00:00:00Z"),
        422
    );
    let other = Node::start();
    send(
        &other,
        "1",
        "\"type\":\"receive\",\"location\":\"m\",\"quantity\":1",
    );
    let foreign = other.get(&format!("/v1/stock/A/m?known_at={}", position(&outcome)));
    assert_eq!(foreign.status, 410, "{}", foreign.text());
    assert_eq!(
        foreign.json()["type"],
        "urn:onhand:problem:unrecoverable_position"
    );
}

#[test]
fn history_tells_every_entry_and_pages() {
    let node = Node::start();
    send(
        &node,
        "1",
        "\"type\":\"receive\",\"location\":\"m\",\"quantity\":10,\"reason\":\"opening\",\
         \"reference\":\"po/7\",\"note\":\"first\",\"data\":{\"x\":1}",
    );
    for n in 2..=25 {
        send(
            &node,
            &n.to_string(),
            "\"type\":\"ship\",\"location\":\"m\",\"quantity\":1",
        );
    }
    send(
        &node,
        "26",
        "\"type\":\"move\",\"quantity\":2,\"from\":{\"location\":\"m\"},\"to\":{\"location\":\"n\",\"state\":\"damaged\"}",
    );
    let all = node.get("/v1/history?sku=A").json()["items"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(all.len(), 27);
    let first = &all[0];
    assert_eq!(first["delta"]["on_hand"], 10);
    assert_eq!(first["balance"]["on_hand"], 10);
    assert_eq!(first["reason"], "opening");
    assert_eq!(first["reference"], "po/7");
    assert_eq!(first["note"], "first");
    assert_eq!(first["data"]["x"], 1);
    assert_eq!(first["cause"]["type"], "receive");
    for time in ["occurred_at", "received_at", "applied_at"] {
        assert!(first[time].is_string(), "{first}");
    }
    let mut balance = 0;
    for entry in all.iter().filter(|entry| entry["location"] == "m") {
        balance += entry["delta"]["on_hand"].as_i64().unwrap();
        assert_eq!(entry["balance"]["on_hand"], balance);
    }
    for limit in [1, 4, 26, 27] {
        let mut paged = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = node
                .get(&format!("/v1/history?sku=A&limit={limit}{cursor}"))
                .json();
            paged.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(paged, all, "pages of {limit}");
    }
    let here = node.get("/v1/history?sku=A&location=n").json();
    assert_eq!(here["items"].as_array().unwrap().len(), 1);
    assert_eq!(here["items"][0]["delta"]["damaged"], 2);
    assert_eq!(node.get("/v1/history").status, 422);
    assert_eq!(
        node.get("/v1/history?sku=A&to=2001-01-01T00:00:00Z").json()["items"],
        Value::Array(Vec::new())
    );
}

#[test]
fn every_entry_of_the_history_has_its_balance() {
    let node = Node::start();
    let at = |time: &str| format!("\"location\":\"m\",\"occurred_at\":\"2026-01-05T{time}:00Z\"");
    let facts = [
        format!("\"type\":\"receive\",\"quantity\":10,{}", at("09:00")),
        format!("\"type\":\"count\",\"quantity\":10,{}", at("10:00")),
        format!("\"type\":\"ship\",\"quantity\":1,{}", at("09:50")),
        format!("\"type\":\"ship\",\"quantity\":2,{}", at("10:30")),
    ];
    for (id, fact) in facts.iter().enumerate() {
        send(&node, &id.to_string(), fact);
        // So that their log times differ.
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    let history = node.get("/v1/history?sku=A").json();
    let entries = history["items"].as_array().unwrap();
    let balances: Vec<&Value> = entries.iter().map(|e| &e["balance"]["on_hand"]).collect();
    assert_eq!(balances, [10, 10, 10, 8], "{history}");
    // A count that found what was there is no fact that a count had seen before.
    assert!(entries[1].get("absorbed").is_none(), "{}", entries[1]);
    assert_eq!(entries[2]["absorbed"], true);
    assert_eq!(entries[2]["balance"]["available"], 10);

    // The same page by page, also where a page begins with an entry that changed nothing.
    let mut paged = Vec::new();
    let mut query = "/v1/history?sku=A&limit=1".to_owned();
    loop {
        let page = node.get(&query).json();
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("/v1/history?sku=A&limit=1&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(&paged, entries);
    // And from a time on.
    let from = entries[2]["applied_at"].as_str().unwrap();
    let later = node.get(&format!("/v1/history?sku=A&from={from}")).json();
    assert_eq!(later["items"].as_array().unwrap(), &entries[2..]);
    // Where nothing has ever changed, nothing is there.
    node.command(r#"{"id":"c","type":"count","sku":"B","location":"m","quantity":0}"#);
    let counted = node.get("/v1/history?sku=B").json();
    assert_eq!(counted["items"][0]["balance"]["on_hand"], 0, "{counted}");
}
