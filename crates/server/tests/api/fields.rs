//! Every rule of every field, and what is said when it is broken.

use serde_json::Value;

use crate::support::Node;

/// A line, the field that is named, and a word of the sentence.
fn refused() -> Vec<(String, &'static str, &'static str)> {
    let ship = |more: &str| {
        format!(
            r#"{{"id":"x","source":"s","type":"ship","sku":"A","location":"m","quantity":1{more}}}"#
        )
    };
    let with = |from: &str, to: &str| ship("").replace(from, to);
    let reserve = |lines: &str| format!(r#"{{"id":"x","type":"reserve","lines":{lines}}}"#);
    let many: Vec<String> = (0..101)
        .map(|n| format!(r#"{{"sku":"S{n}","quantity":1}}"#))
        .collect();
    let long = "x".repeat(256);
    vec![
        ("garbage".to_owned(), "", "JSON object"),
        ("[1]".to_owned(), "", "JSON object"),
        ("{\"id\":\"x\"".to_owned(), "", "JSON object"),
        // Names.
        (with(r#""id":"x","#, ""), "id", "missing"),
        (with(r#""id":"x""#, r#""id":7"#), "id", "integer"),
        (with(r#""id":"x""#, r#""id":null"#), "id", "null"),
        (with(r#""id":"x""#, r#""id":"""#), "id", "empty"),
        (with(r#""id":"x""#, &format!(r#""id":"{long}""#)), "id", "256 bytes"),
        (with(r#""source":"s""#, r#""source":"onhand""#), "source", "own"),
        (with(r#""source":"s""#, r#""source":"onhand/x""#), "source", "own"),
        (with(r#""source":"s""#, r#""source":" s""#), "source", "white space"),
        (with(r#""sku":"A""#, r#""sku":"A\u0000""#), "sku", "control"),
        (with(r#""sku":"A""#, r#""sku":"A\n""#), "sku", "control"),
        (with(r#""sku":"A""#, r#""sku":"e\u0301""#), "sku", "NFC"),
        (with(r#""sku":"A""#, r#""sku":"A ""#), "sku", "white space"),
        (with(r#""sku":"A","#, ""), "sku", "missing"),
        (with(r#""location":"m","#, ""), "location", "missing"),
        // Quantities.
        (with(r#":1"#, ":1.5"), "quantity", "decimal string"),
        (with(r#":1"#, ":1e3"), "quantity", "decimal string"),
        (with(r#":1"#, ":1.0"), "quantity", "decimal string"),
        (with(r#":1"#, ":0"), "quantity", "above 0"),
        (with(r#":1"#, ":-1"), "quantity", "above 0"),
        (with(r#":1"#, ":9223372036854775808"), "quantity", "64 bits"),
        (with(r#":1"#, r#":"1,5""#), "quantity", "decimal"),
        (with(r#":1"#, r#":"1.0000001""#), "quantity", "decimal"),
        (with(r#","quantity":1"#, ""), "quantity", "missing"),
        (with("ship", "adjust").replace(":1", ":0"), "quantity", "is 0"),
        (with("ship", "count").replace(":1", ":-1"), "quantity", "below 0"),
        // Times.
        (ship(r#","occurred_at":"99999-01-01T00:00:00Z""#), "occurred_at", "9999"),
        (ship(r#","occurred_at":"9999-12-31T23:59:59-01:00""#), "occurred_at", "after the year 9999"),
        (ship(r#","occurred_at":"0001-01-01T00:00:00+14:00""#), "occurred_at", "before the year 0001"),
        (ship(r#","occurred_at":"2026-01-01T00:00:00""#), "occurred_at", "offset"),
        (ship(r#","occurred_at":"2026-02-30T00:00:00Z""#), "occurred_at", "exists"),
        (ship(r#","occurred_at":1291191960"#), "occurred_at", "integer"),
        // Words and text.
        (ship(r#","reason":"Big Sale""#), "reason", "short word"),
        (ship(&format!(r#","note":"{}""#, "n".repeat(1001))), "note", "1001 bytes"),
        (ship(&format!(r#","reference":"{}""#, "n".repeat(513))), "reference", "513 bytes"),
        (ship(r#","data":[1]"#), "data", "object"),
        (ship(r#","data":{"a":{"b":1}}"#), "data", "flat"),
        (ship(&format!(r#","data":{{"a":"{}"}}"#, "n".repeat(2048))), "data", "bytes"),
        (ship(r#","state":"on_hand""#), "state", "available"),
        (with("ship", "count").replace(":1", r#":1,"state":"available""#), "state", "on_hand"),
        (ship(r#","seq":-1"#), "seq", "-1"),
        (ship(r#","line":1"#), "line", "reservation"),
        (ship(r#","reservation":"r","line":0"#), "line", "from 1"),
        // Fields and types that are not there.
        (ship(r#","quantty":2"#), "quantty", "did you mean \"quantity\""),
        (ship(r#","colour":2"#), "colour", "leave it out"),
        (ship(r#","quantity":2"#), "quantity", "twice"),
        (ship(r#","lot":"L1""#), "lot", "kept"),
        (ship(r#","tenant":"t""#), "tenant", "kept"),
        (ship(r#","ttl_s":9"#), "ttl_s", "does not belong"),
        (with("ship", "receive").replace(":1", r#":1,"supply":"p""#), "supply", "not available"),
        (with("ship", "receive").replace(":1", r#":1,"reservation":"p""#), "reservation", "belong"),
        (with("ship", "shp"), "type", "did you mean \"ship\""),
        (with("ship", "qqqq"), "type", "send one of"),
        (with(r#""type":"ship","#, ""), "type", "missing"),
        (with(r#""type":"ship""#, r#""type":3"#), "type", "integer"),
        (with("ship", "dispatch"), "type", "not available"),
        (with("ship", "arrive"), "type", "not available"),
        (with("ship", "reverse"), "type", "not available"),
        (with("ship", "expect"), "type", "not available"),
        (with("ship", "expect_change"), "type", "not available"),
        (with("ship", "expect_cancel"), "type", "not available"),
        (with("ship", "policy"), "type", "not available"),
        (with("ship", "transfer"), "type", "not available"),
        // Moves.
        (
            r#"{"id":"x","type":"move","sku":"A","quantity":1,"from":{"location":"a"}}"#.to_owned(),
            "to",
            "missing",
        ),
        (
            r#"{"id":"x","type":"move","sku":"A","quantity":1,"from":{"location":"a"},"to":"b"}"#
                .to_owned(),
            "to",
            "object",
        ),
        (
            r#"{"id":"x","type":"move","sku":"A","quantity":1,"from":{"location":"a"},"to":{"loc":"b"}}"#
                .to_owned(),
            "to/loc",
            "location",
        ),
        (
            r#"{"id":"x","type":"move","sku":"A","quantity":1,"from":{"location":"a"},"to":{"location":"a"}}"#
                .to_owned(),
            "to",
            "same",
        ),
        // Items.
        (r#"{"id":"x","type":"item","sku":"A"}"#.to_owned(), "decimals", "missing"),
        (r#"{"id":"x","type":"item","sku":"A","decimals":7}"#.to_owned(), "decimals", "0 to 6"),
        // Lines.
        (reserve("[]"), "lines", "empty"),
        (reserve("{}"), "lines", "list"),
        (r#"{"id":"x","type":"reserve"}"#.to_owned(), "lines", "missing"),
        (reserve(&format!("[{}]", many.join(","))), "lines", "101 lines"),
        (reserve(r#"[{"sku":"A"}]"#), "lines/0/quantity", "missing"),
        (reserve(r#"[{"sku":"A","quantity":1,"qty":2}]"#), "lines/0/qty", "no field"),
        (reserve(r#"[{"sku":"A","quantity":1},{"sku":"B","quantity":0.5}]"#), "lines/1/quantity", "decimal"),
        (
            reserve(r#"[{"line":1,"sku":"A","quantity":1},{"line":1,"sku":"B","quantity":1}]"#),
            "lines/1/line",
            "another",
        ),
        (
            reserve(r#"[{"sku":"A","quantity":1},{"sku":"A","quantity":1,"location":"m"}]"#),
            "lines/1/sku",
            "twice",
        ),
        (
            r#"{"id":"x","type":"reserve","ttl_s":2592001,"lines":[{"sku":"A","quantity":1}]}"#
                .to_owned(),
            "ttl_s",
            "2592000",
        ),
        (
            r#"{"id":"x","type":"commit","reservation":"r","lines":[{"sku":"A","quantity":1}]}"#
                .to_owned(),
            "lines/0/location",
            "missing",
        ),
        (
            r#"{"id":"x","type":"commit","lines":[{"sku":"A","quantity":1,"location":"m"}]}"#
                .to_owned(),
            "reservation",
            "missing",
        ),
        (r#"{"id":"x","type":"confirm"}"#.to_owned(), "reservation", "missing"),
        (
            r#"{"id":"x","type":"confirm","reservation":"r","lines":[{"line":1},{"line":1}]}"#
                .to_owned(),
            "lines/1/line",
            "twice",
        ),
        (
            r#"{"id":"x","type":"release","reservation":"r","lines":[{"quantity":1}]}"#.to_owned(),
            "lines/0/line",
            "missing",
        ),
    ]
}

#[test]
fn every_broken_rule_names_its_field_and_what_to_do() {
    let node = Node::start();
    let refused = refused();
    let mut stream = String::new();
    for (line, _, _) in &refused {
        stream.push_str(line);
        stream.push('\n');
    }
    let answers = node.stream("", &stream);
    assert_eq!(answers.len(), refused.len() + 1);
    for (place, ((line, field, word), answer)) in refused.iter().zip(&answers).enumerate() {
        assert_eq!(answer["line"], place + 1, "{line}");
        assert_eq!(answer["status"], "invalid", "{line}: {answer}");
        assert_eq!(answer["field"], *field, "{line}: {answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{line}: {detail}");
    }
    let totals = &answers.last().unwrap()["totals"];
    assert_eq!(totals["invalid"], refused.len());
    assert_eq!(totals["problems"], refused.len());
    // The same rules hold for one command, as a problem.
    for (line, field, word) in refused.iter().step_by(7) {
        let answer = node.command(line);
        assert!(
            answer.status == 422 || answer.status == 400,
            "{line}: {}",
            answer.status
        );
        let problem: Value = answer.json();
        assert_eq!(problem["field"], *field, "{problem}");
        assert_eq!(problem["outcome"], "invalid", "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(word),
            "{problem}"
        );
    }
    assert_eq!(
        node.get("/v1/stock").json()["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn every_type_is_taken_with_all_its_fields() {
    let node = Node::start_with(|config| config.truth = vec!["http".to_owned()]);
    let common = r#""occurred_at":"2026-01-31T08:26:00+01:00","reason":"sale","note":"a\nb","reference":"invoice/1","data":{"a":1.5,"b":null}"#;
    let lines = [
        r#""type":"item","sku":"A","decimals":0,"unit":"piece","name":"A thing""#,
        r#""type":"receive","sku":"A","location":"m","quantity":9,"state":"available","seq":1"#,
        r#""type":"return","sku":"A","location":"m","quantity":"1","state":"quality_control""#,
        r#""type":"ship","sku":"A","location":"m","quantity":1,"state":"available","reservation":"r","line":1"#,
        r#""type":"adjust","sku":"A","location":"m","quantity":-1,"state":"available""#,
        r#""type":"move","sku":"A","quantity":1,"from":{"location":"m"},"to":{"location":"n","state":"damaged"}"#,
        r#""type":"count","sku":"A","location":"m","quantity":8,"state":"on_hand""#,
        r#""type":"set","sku":"A","location":"m","quantity":8"#,
        r#""type":"reserve","reservation":"q","lines":[{"line":7,"sku":"A","quantity":2,"location":"m"}],"ttl_s":60,"channel":"web","partial":true"#,
        r#""type":"extend","reservation":"q","ttl_s":90"#,
        r#""type":"confirm","reservation":"q","lines":[{"line":7,"quantity":1}]"#,
        r#""type":"release","reservation":"q","lines":[{"line":7}]"#,
        r#""type":"commit","reservation":"c","lines":[{"sku":"A","quantity":1,"location":"m"}],"channel":"shop""#,
    ];
    for (place, line) in lines.iter().enumerate() {
        let answer = node.command(&format!(r#"{{"id":"{place}",{line},{common}}}"#));
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
    }
}

#[test]
fn a_clock_that_is_ahead_is_told_and_the_last_second_of_the_calendar_exists() {
    let node = Node::start();
    // What some systems send for "never": later than now, like any other wrong clock.
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":1,"occurred_at":"9999-12-31T23:59:59Z"}"#;
    let answer = node.command(line);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["clock_ahead_s"].as_u64().unwrap() > 200_000_000_000);
    let to = node.get("/v1/history?sku=A&to=9999-12-31T23:59:59Z");
    assert_eq!(to.status, 200, "{}", to.text());
    assert_eq!(to.json()["items"].as_array().unwrap().len(), 1);
}
