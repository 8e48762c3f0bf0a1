//! Commands one at a time: what is taken, what is refused, and what a repeat is told.

use serde_json::Value;

use crate::support::Node;

const RECEIVE: &str =
    r#"{"id":"1","source":"till","type":"receive","sku":"A","location":"main","quantity":5}"#;

#[test]
fn a_fact_is_applied_and_its_level_is_there() {
    let node = Node::start();
    let answer = node.command(RECEIVE);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("content-length").is_some());
    let outcome = answer.json();
    assert_eq!(outcome["id"], "1");
    assert_eq!(outcome["source"], "till");
    assert_eq!(outcome["status"], "applied");
    assert_eq!(outcome["created"], true);
    assert_eq!(outcome["levels"][0]["on_hand"], 5);
    let level = node.get("/v1/stock/A/main");
    assert_eq!(level.status, 200);
    assert_eq!(level.json()["available"], 5);
    assert_eq!(level.json()["position"], outcome["position"]);
    assert_eq!(node.get("/v1/stock/A").json()["total"]["on_hand"], 5);
}

#[test]
fn the_same_again_is_told_its_first_outcome_and_status() {
    let node = Node::start();
    let first = node.command(RECEIVE).json();
    let again = node.command(RECEIVE);
    assert_eq!(again.status, 200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json()["status"], "duplicate");
    assert_eq!(again.json()["first"], first);
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 5);

    let refused = r#"{"id":"r","type":"reserve","lines":[{"sku":"A","quantity":6}]}"#;
    let first = node.command(refused);
    assert_eq!(first.status, 409, "{}", first.text());
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = node.command(refused);
    assert_eq!(again.status, 409);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json()["status"], 409);
    assert_eq!(again.json()["outcome"], "duplicate");
    assert_eq!(again.json()["first"]["reason"], "insufficient_stock");
}

#[test]
fn the_same_name_with_other_content_is_an_error() {
    let node = Node::start();
    node.command(RECEIVE);
    let other = RECEIVE.replace(":5", ":6");
    let answer = node.command(&other);
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["type"], "urn:onhand:problem:id_reused");
    assert_eq!(answer.json()["reason"], "id_reused");
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 5);
}

#[test]
fn a_refusal_is_a_problem_with_the_numbers_that_decided() {
    let node = Node::start();
    node.command(RECEIVE);
    let answer = node.command(
        r#"{"id":"2","source":"web","type":"reserve","lines":[{"sku":"A","quantity":7,"location":"main"}]}"#,
    );
    assert_eq!(answer.status, 409);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    let problem = answer.json();
    assert_eq!(problem["type"], "urn:onhand:problem:rejected");
    assert_eq!(problem["outcome"], "rejected");
    assert_eq!(problem["reason"], "insufficient_stock");
    assert_eq!(problem["lines"][0]["requested"], 7);
    assert_eq!(problem["lines"][0]["available"], 5);
    assert_eq!(problem["retryable"], false);
    assert!(problem["position"].is_string());
}

#[test]
fn the_key_in_the_header_names_the_command() {
    let node = Node::start();
    let body = r#"{"type":"receive","sku":"A","location":"main","quantity":1}"#;
    let json = "Content-Type: application/json";
    for key in ["Idempotency-Key: k-1", "Idempotency-Key: \"k-1\""] {
        let answer = node.send("POST", "/v1/commands", &[json, key], body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["id"], "k-1");
    }
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 1);
    let both = r#"{"id":"k-2","type":"receive","sku":"A","location":"main","quantity":1}"#;
    let key = "Idempotency-Key: k-1";
    let answer = node.send("POST", "/v1/commands", &[json, key], both.as_bytes());
    assert_eq!(answer.status, 422);
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("Idempotency-Key")
    );
    let ndjson = "Content-Type: application/x-ndjson";
    let answer = node.send("POST", "/v1/commands", &[ndjson, key], both.as_bytes());
    assert_eq!(answer.status, 422);
}

#[test]
fn garbage_large_bodies_and_other_media_are_refused_clearly() {
    let node = Node::start();
    let garbage = node.command("{not json");
    assert_eq!(garbage.status, 400);
    assert_eq!(garbage.json()["type"], "urn:onhand:problem:unreadable");
    for body in ["", "[]", "7", "null", "\"a\"", "{} {}"] {
        assert_eq!(node.command(body).status, 400, "{body}");
    }
    let json = "Content-Type: application/json";
    let binary = node.send("POST", "/v1/commands", &[json], b"{\"id\":\"\xff\"}");
    assert_eq!(binary.status, 400);
    let large = node.command(&format!("{{\"note\":\"{}\"}}", "x".repeat(2 << 20)));
    assert_eq!(large.status, 413);
    let form = node.send("POST", "/v1/commands", &["Content-Type: text/plain"], b"{}");
    assert_eq!(form.status, 415);
    assert_eq!(node.send("POST", "/v1/commands", &[], b"{}").status, 415);
    let encoded = ["Content-Type: application/x-ndjson", "Content-Encoding: br"];
    assert_eq!(
        node.send("POST", "/v1/commands", &encoded, b"{}").status,
        415
    );
    // The node goes on.
    assert_eq!(node.command(RECEIVE).status, 200);
}

#[test]
fn unknown_addresses_methods_and_parameters_are_told() {
    let node = Node::start();
    assert_eq!(node.get("/v1/nothing").status, 404);
    let method = node.send("DELETE", "/v1/commands", &[], b"");
    assert_eq!(method.status, 405);
    assert_eq!(method.header("allow"), Some("POST"));
    let parameter = node.get("/v1/stock?limt=3");
    assert_eq!(parameter.status, 422);
    assert!(
        parameter.json()["detail"]
            .as_str()
            .unwrap()
            .contains("did you mean \"limit\"")
    );
}

#[test]
fn what_came_without_a_time_counts_after_a_count() {
    let node = Node::start();
    node.command(RECEIVE);
    let count = node
        .command(r#"{"id":"c","type":"count","sku":"A","location":"main","quantity":3}"#)
        .json();
    assert_eq!(count["counted"], 3);
    assert_eq!(count["expected"], 5);
    assert_eq!(count["drift"], -2);
    node.command(r#"{"id":"s","type":"ship","sku":"A","location":"main","quantity":1}"#);
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 2);
    let conflicts = node.get("/v1/conflicts?kind=drift").json();
    assert_eq!(conflicts["items"][0]["drift"], -2);
    assert_eq!(conflicts["items"][0]["sku"], "A");
    assert_eq!(
        node.get("/v1/conflicts?kind=oversell").json()["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn outcomes_are_found_by_name() {
    let node = Node::start();
    let first = node.command(RECEIVE).json();
    let found = node.get("/v1/outcomes?source=till&id=1");
    assert_eq!(found.status, 200);
    assert_eq!(found.json()["items"][0], first);
    assert_eq!(node.get("/v1/outcomes?source=till&id=2").status, 404);
    assert_eq!(node.get("/v1/outcomes?source=till").status, 422);
}

#[test]
fn only_a_source_of_truth_sets() {
    let node = Node::start_with(|config| config.truth = vec!["erp".to_owned()]);
    node.command(RECEIVE);
    let set = |source: &str, id: &str, expected: u32| {
        let line = format!(
            r#"{{"id":"{id}","source":"{source}","type":"set","sku":"A","location":"main","quantity":9,"expected_quantity":{expected}}}"#
        );
        node.command(&line)
    };
    assert_eq!(set("shop", "1", 5).status, 409);
    let unexpected = set("erp", "1", 4);
    assert_eq!(unexpected.status, 409);
    assert_eq!(unexpected.json()["reason"], "not_as_expected");
    let numbers = unexpected.json()["lines"][0].clone();
    assert_eq!(numbers["expected"], 4);
    assert_eq!(numbers["on_hand"], 5);
    assert_eq!(set("erp", "2", 5).status, 200);
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 9);
}

#[test]
fn quantities_with_decimals_are_strings_both_ways() {
    let node = Node::start();
    let item = node.command(r#"{"id":"i","type":"item","sku":"K","decimals":3,"unit":"kg"}"#);
    assert_eq!(item.status, 200, "{}", item.text());
    node.command(r#"{"id":"1","type":"receive","sku":"K","location":"m","quantity":"1.25"}"#);
    let level = node.get("/v1/stock/K/m").json();
    assert_eq!(level["on_hand"], "1.250");
    assert_eq!(level["reserved"], "0.000");
    let fine =
        node.command(r#"{"id":"2","type":"receive","sku":"K","location":"m","quantity":"0.0001"}"#);
    assert_eq!(fine.status, 422);
    assert_eq!(fine.json()["reason"], "decimals");
    assert_eq!(fine.json()["field"], "quantity");
    // Counts of decimals are no quantities of the item.
    let fixed = node.command(r#"{"id":"j","type":"item","sku":"K","decimals":2}"#);
    assert_eq!(fixed.status, 409);
    assert_eq!(fixed.json()["reason"], "decimals_fixed");
    assert_eq!(fixed.json()["lines"][0]["requested"], 2);
    assert_eq!(fixed.json()["lines"][0]["declared"], 3);
    let low = node.get("/v1/stock?below=1.3").json();
    assert_eq!(low["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        node.get("/v1/stock?below=1.25").json()["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn the_node_says_how_it_is() {
    let node = Node::start();
    node.command(RECEIVE);
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.get("/readyz").json()["status"], "ready");
    assert_eq!(node.get("/readyz?verbose").json()["checks"]["space"], "ok");
    let metrics = node.get("/metrics").text();
    assert!(
        metrics.contains("onhand_events_received_total 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("onhand_log_syncs_total"), "{metrics}");
    let head = node.send("HEAD", "/livez", &[], b"");
    assert_eq!(head.status, 200);
    let topics = node.get("/v1/topics").json();
    let names: Vec<&str> = topics["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["topic"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"stock.decisions"), "{names:?}");
    let partition = topics["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|topic| topic["topic"] == "stock.decisions")
        .and_then(|topic| {
            topic["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .position(|p| p["end"] != p["start"])
        })
        .unwrap();
    let records = node
        .get(&format!(
            "/v1/topics/stock.decisions/records?partition={partition}"
        ))
        .json();
    assert_eq!(records["items"][0]["decisions"][0]["sku"], "A");
    assert_eq!(node.get("/v1/topics/none/records").status, 404);
}

#[test]
fn the_numbers_of_a_refusal_are_named_by_what_they_are() {
    let node = Node::start();
    node.command(RECEIVE);
    let reserve = |id: &str, quantity: u32| {
        node.command(&format!(
            r#"{{"id":"{id}","source":"w","type":"reserve","reservation":"r","lines":[{{"sku":"A","quantity":{quantity}}}]}}"#
        ))
    };
    assert_eq!(reserve("1", 3).status, 200);
    let of = |kind: &str, id: &str, line: &str| {
        let answer = node.command(&format!(
            r#"{{"id":"{id}","source":"w","type":"{kind}","reservation":"r","lines":[{line}]}}"#
        ));
        assert_eq!(answer.status, 409, "{}", answer.text());
        answer.json()["lines"][0].clone()
    };
    let over = of("confirm", "2", r#"{"line":1,"quantity":4}"#);
    assert_eq!((&over["requested"], &over["open"]), (&4.into(), &3.into()));
    assert!(over.get("available").is_none(), "{over}");
    // A line that is not there has no numbers, and no SKU either.
    let unknown = of("release", "3", r#"{"line":7,"quantity":1}"#);
    assert_eq!(
        unknown,
        serde_json::json!({"line": 7, "reason": "unknown_line"})
    );
    let confirmed = r#"{"id":"4","source":"w","type":"confirm","reservation":"r","lines":[{"line":1,"quantity":2}]}"#;
    assert_eq!(node.command(confirmed).status, 200);
    let less = reserve("5", 1).json()["lines"][0].clone();
    assert_eq!((&less["requested"], &less["done"]), (&1.into(), &2.into()));
    // How many decimals an item has is no amount of it.
    let kilos = |id: &str, decimals: u8| {
        node.command(&format!(
            r#"{{"id":"{id}","type":"item","sku":"K","decimals":{decimals}}}"#
        ))
    };
    assert_eq!(kilos("6", 2).status, 200);
    node.command(r#"{"id":"7","type":"receive","sku":"K","location":"main","quantity":"1.5"}"#);
    let fixed = kilos("8", 3).json()["lines"][0].clone();
    assert_eq!(
        (&fixed["requested"], &fixed["declared"]),
        (&3.into(), &2.into())
    );
}

/// The members of `value` that the schema does not name, and those within them.
fn undescribed(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(pointer) => document
            .pointer(pointer.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{pointer}")),
        None => schema,
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let at = format!("{at}/{name}");
                match schema["properties"].get(name) {
                    Some(schema) => undescribed(document, schema, member, &at, found),
                    None if schema["additionalProperties"].is_object() => {}
                    None => found.push(at),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                undescribed(document, &schema["items"], item, at, found);
            }
        }
        _ => {}
    }
}

#[test]
fn whatever_an_outcome_says_is_described() {
    let node = Node::start();
    let document = node.get("/openapi.json").json();
    let outcome = &document["components"]["schemas"]["Outcome"];
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let lines = [
        RECEIVE.to_owned(),
        RECEIVE.to_owned(),
        RECEIVE.replace("\"type\"", "\"note\":\"x\",\"type\""),
        format!(r#"{{"id":"2","type":"return","sku":"A","location":"x","quantity":1,"occurred_at":"{ahead}"}}"#),
        r#"{"id":"3","type":"count","sku":"A","location":"x","quantity":4,"state":"damaged"}"#.to_owned(),
        r#"{"id":"4","type":"ship","sku":"A","location":"x","quantity":1,"occurred_at":"2026-01-01T00:00:00Z","reservation":"r"}"#.to_owned(),
        r#"{"id":"5","type":"reserve","reservation":"r","lines":[{"sku":"A","quantity":2}],"channel":"web"}"#.to_owned(),
        r#"{"id":"6","type":"reserve","reservation":"q","lines":[{"sku":"A","quantity":200}]}"#.to_owned(),
        r#"{"id":"7","type":"confirm","reservation":"r","lines":[{"line":1,"quantity":9}]}"#.to_owned(),
        r#"{"id":"8","type":"release","reservation":"r"}"#.to_owned(),
        r#"{"id":"9","type":"ship","sku":"A","location":"x","quantity":1.5}"#.to_owned(),
    ];
    let mut found = Vec::new();
    for line in &lines {
        let answer = node.command(line);
        if answer.status < 400 {
            undescribed(&document, outcome, &answer.json(), "", &mut found);
        }
    }
    for line in node.stream("", &lines.join("\n")) {
        if line.get("totals").is_none() {
            undescribed(&document, outcome, &line, "", &mut found);
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "not in /openapi.json: {found:?}");
}
