//! Reservations as resources.

use serde_json::Value;

use crate::support::{Answer, Node};

fn stocked() -> Node {
    let node = Node::start();
    for (sku, quantity) in [("A", 5), ("B", 3)] {
        let line = format!(
            r#"{{"id":"in-{sku}","type":"receive","sku":"{sku}","location":"m","quantity":{quantity}}}"#
        );
        assert_eq!(node.command(&line).status, 200);
    }
    node
}

fn reserve(node: &Node, id: &str, a: u32, b: u32) -> Answer {
    node.post(
        "/v1/reservations",
        &format!(
            r#"{{"id":"{id}","source":"web","channel":"shop","lines":[{{"sku":"A","quantity":{a}}},{{"sku":"B","quantity":{b}}}]}}"#
        ),
    )
}

#[test]
fn a_reservation_lives_from_grant_to_release() {
    let node = stocked();
    let granted = reserve(&node, "o1", 2, 1);
    assert_eq!(granted.status, 201, "{}", granted.text());
    assert_eq!(
        granted.header("location"),
        Some("/v1/reservations/web%2Fo1")
    );
    let outcome = granted.json();
    assert_eq!(outcome["status"], "granted");
    assert_eq!(outcome["reservation"]["reservation"], "web/o1");
    assert_eq!(outcome["reservation"]["lines"][0]["reserved"], 2);
    assert_eq!(outcome["reservation"]["lines"][0]["location"], "m");
    assert_eq!(node.get("/v1/stock/A/m").json()["available"], 3);

    let again = reserve(&node, "o1", 2, 1);
    assert_eq!(again.status, 201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json()["first"]["status"], "granted");

    let part = node.post(
        "/v1/reservations/web%2Fo1/confirm",
        r#"{"id":"c1","lines":[{"line":1,"quantity":1}]}"#,
    );
    assert_eq!(part.status, 200, "{}", part.text());
    let read = node.get("/v1/reservations/web%2Fo1");
    assert_eq!(read.status, 200);
    assert_eq!(read.json()["lines"][0]["committed"], 1);
    assert_eq!(read.json()["lines"][0]["reserved"], 1);
    assert_eq!(read.json()["state"], "granted");
    assert!(read.json()["expires_at"].is_string());

    let extended = node.post(
        "/v1/reservations/web%2Fo1/extend",
        r#"{"id":"e1","ttl_s":3600}"#,
    );
    assert_eq!(extended.status, 200);
    // Everything that is open, named by the header alone.
    let released = node.send(
        "POST",
        "/v1/reservations/web%2Fo1/release",
        &["Idempotency-Key: rel"],
        b"",
    );
    assert_eq!(released.status, 200, "{}", released.text());
    assert_eq!(
        node.get("/v1/reservations/web%2Fo1").json()["state"],
        "released"
    );
    assert_eq!(node.get("/v1/stock/A/m").json()["available"], 5);
    let late = node.post("/v1/reservations/web%2Fo1/confirm", r#"{"id":"c2"}"#);
    assert_eq!(late.status, 409);
    assert_eq!(late.json()["reason"], "released");
}

#[test]
fn all_or_nothing_with_the_numbers_of_every_line() {
    let node = stocked();
    let refused = reserve(&node, "o1", 2, 9);
    assert_eq!(refused.status, 409);
    let lines = refused.json()["lines"].as_array().unwrap().clone();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let line = |sku: &str| lines.iter().find(|line| line["sku"] == sku).unwrap();
    assert_eq!(line("B")["requested"], 9);
    assert_eq!(line("B")["available"], 3);
    assert_eq!(line("B")["reason"], "insufficient_stock");
    for sku in ["A", "B"] {
        assert_eq!(
            node.get(&format!("/v1/stock/{sku}/m")).json()["reserved"],
            0
        );
    }
    let unknown = node.post(
        "/v1/reservations",
        r#"{"id":"u","lines":[{"sku":"never","quantity":1}]}"#,
    );
    assert_eq!(unknown.status, 409);
    assert_eq!(unknown.json()["lines"][0]["reason"], "unknown_sku");
}

#[test]
fn a_commit_that_names_a_sku_or_a_location_first_says_so() {
    let node = stocked();
    let commit = |id: &str, lines: &str| {
        format!(r#"{{"id":"{id}","type":"commit","reservation":"{id}","lines":[{lines}]}}"#)
    };
    let line = |sku: &str, location: &str| {
        format!(r#"{{"sku":"{sku}","quantity":1,"location":"{location}"}}"#)
    };
    let known = commit("1", &line("A", "m"));
    let new_sku = commit("2", &[line("A", "m"), line("new", "m")].join(","));
    let new_place = commit("3", &line("B", "n"));
    for (command, created) in [(&known, false), (&new_sku, true), (&new_place, true)] {
        let outcome = node.command(command);
        assert_eq!(outcome.status, 200, "{}", outcome.text());
        assert_eq!(outcome.json()["status"], "applied");
        assert_eq!(
            outcome.json().get("created").is_some(),
            created,
            "{command}"
        );
    }
    let again = node.command(&new_sku).json();
    assert_eq!(again["first"]["created"], true);
    let fourth = commit("4", &line("B", "n"));
    let fifth = commit("5", &line("B", "o"));
    let lines = node.stream("", &[fourth, fifth].join("\n"));
    assert_eq!(lines[0].get("created"), None);
    assert_eq!(lines[1]["created"], true);
}

#[test]
fn a_refused_line_shows_its_amount_as_its_item_does() {
    let node = Node::start();
    node.command(r#"{"id":"i","type":"item","sku":"K","decimals":2,"unit":"kg"}"#);
    node.command(r#"{"id":"r","type":"receive","sku":"K","location":"m","quantity":"0.5"}"#);
    let refused = node.post(
        "/v1/reservations",
        r#"{"id":"o","source":"web","lines":[{"sku":"K","quantity":1}]}"#,
    );
    assert_eq!(refused.status, 409, "{}", refused.text());
    let refused = refused.json();
    assert_eq!(refused["lines"][0]["requested"], "1.00");
    assert_eq!(refused["lines"][0]["available"], "0.50");
    let line = &refused["reservation"]["lines"][0];
    assert_eq!(line["requested"], "1.00");
    assert_eq!(line["granted"], "0.00");
}

#[test]
fn reservations_are_listed_by_what_they_are_about() {
    let node = stocked();
    for n in 0..20 {
        node.post(
            "/v1/reservations",
            &format!(
                r#"{{"id":"n{n:02}","source":"s","channel":"c{}","lines":[{{"sku":"{}","quantity":1}}]}}"#,
                n % 2,
                if n % 3 == 0 { "B" } else { "A" }
            ),
        );
    }
    let count = |query: &str| {
        let list = node.get(&format!("/v1/reservations?{query}")).json();
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(count(""), 20);
    assert_eq!(count("sku=B"), 7);
    assert_eq!(count("channel=c1"), 10);
    assert_eq!(count("state=granted"), 8);
    assert_eq!(count("state=rejected"), 12);
    assert_eq!(count("location=m&state=granted"), 8);
    let mut ids: Vec<String> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node
            .get(&format!("/v1/reservations?limit=3{cursor}"))
            .json();
        let items = page["items"].as_array().unwrap();
        ids.extend(
            items
                .iter()
                .map(|one| one["reservation"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 20);
    assert!(ids.is_sorted());
    assert_eq!(node.get("/v1/reservations?state=gone").status, 422);
    assert_eq!(node.get("/v1/reservations/none").status, 404);
}

#[test]
fn what_does_not_fit_the_route_is_refused() {
    let node = stocked();
    let other = node.post("/v1/reservations", r#"{"id":"1","type":"ship"}"#);
    assert_eq!(other.status, 422);
    assert_eq!(other.json()["field"], "type");
    let twice = node.post(
        "/v1/reservations/r/confirm",
        r#"{"id":"1","reservation":"q"}"#,
    );
    assert_eq!(twice.status, 422);
    let unnamed = node.post("/v1/reservations/r/confirm", "{}");
    assert_eq!(unnamed.status, 422);
    assert_eq!(unnamed.json()["field"], "id");
    let transfer = node.post(
        "/v1/reservations/r/transfer",
        r#"{"id":"1","location":"n"}"#,
    );
    assert_eq!(transfer.status, 422);
    assert_eq!(transfer.json()["type"], "urn:onhand:problem:not_available");
}

#[test]
fn of_two_hundred_who_ask_for_the_last_unit_one_gets_it() {
    let node = Node::start();
    node.command(r#"{"id":"in","type":"receive","sku":"L","location":"m","quantity":1}"#);
    let answers: Vec<(u16, Value)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..200)
            .map(|n| {
                let node = &node;
                scope.spawn(move || {
                    let answer = node.post(
                        "/v1/reservations",
                        &format!(r#"{{"id":"{n}","lines":[{{"sku":"L","quantity":1}}]}}"#),
                    );
                    (answer.status, answer.json())
                })
            })
            .collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(
        answers.iter().filter(|(status, _)| *status == 201).count(),
        1
    );
    for (_, refused) in answers.iter().filter(|(status, _)| *status != 201) {
        assert_eq!(refused["reason"], "insufficient_stock", "{refused}");
        assert_eq!(refused["lines"][0]["requested"], 1);
        assert_eq!(refused["lines"][0]["available"], 0);
    }
}

#[test]
fn a_commit_after_the_release_says_that_nothing_is_held() {
    let node = Node::start();
    node.command(r#"{"id":"0","type":"receive","sku":"A","location":"m","quantity":5}"#);
    let commit = |id: &str| {
        let answer = node.command(&format!(
            r#"{{"id":"{id}","source":"market","type":"commit","reservation":"r","lines":[{{"sku":"A","quantity":2,"location":"m"}}]}}"#
        ));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["reservation"].clone()
    };
    let first = commit("1");
    assert_eq!(first["lines"][0]["committed"], 2);
    assert!(first.get("conflict").is_none(), "{first}");
    node.command(r#"{"id":"2","type":"release","reservation":"r"}"#);
    let late = commit("3");
    assert_eq!(late["state"], "released");
    assert_eq!(late["conflict"]["kind"], "commit_after_release");
    assert_eq!(late["conflict"]["id"], "3");
    let read = node.get("/v1/reservations/r").json();
    assert_eq!(read["conflict"], late["conflict"]);
}
