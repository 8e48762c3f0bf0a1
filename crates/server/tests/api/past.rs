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

/// The partitions of a node's log.
const PARTITIONS: u16 = 16;

/// Two SKUs and a reservation, each of another owner.
fn apart() -> [String; 3] {
    let mut taken = Vec::new();
    ["tea", "jam", "order"].map(|name| {
        let fits = |name: &String| {
            let owner = onhand_log::partition_of(name.as_bytes(), PARTITIONS);
            let free = !taken.contains(&owner);
            taken.push(owner);
            free
        };
        let mut names = (0..).map(|n| format!("{name}-{n}"));
        names.find(fits).unwrap()
    })
}

/// What a level was known to be at a position: on hand, reserved, committed.
fn known(node: &Node, sku: &str, position: &str) -> [i64; 3] {
    let answer = node.get(&format!("/v1/stock/{sku}/m?known_at={position}"));
    assert_eq!(answer.status, 200, "{sku}: {}", answer.text());
    let level = answer.json();
    ["on_hand", "reserved", "committed"].map(|figure| level[figure].as_i64().unwrap())
}

#[test]
fn a_reservations_position_shows_the_stock_of_all_its_lines_as_it_left_it() {
    let node = Node::start();
    let [tea, jam, order] = apart();
    let lines = |commands: &[String]| {
        let lines = node.stream("", &commands.join("\n"));
        assert_eq!(lines.last().unwrap()["totals"]["problems"], 0, "{lines:?}");
        lines
    };
    let receive = |id: &str, sku: &str, quantity: i64| {
        format!(
            r#"{{"id":"{id}","type":"receive","sku":"{sku}","location":"m","quantity":{quantity}}}"#
        )
    };
    // Each owner has come a different way: a number of one is wrong at the others.
    let mut before = vec![receive("in", &tea, 10), receive("in", &jam, 20)];
    before.extend((0..7).map(|n| receive(&format!("before-{n}"), &jam, 1)));
    lines(&before);

    let reserve = format!(
        r#"{{"id":"r","type":"reserve","reservation":"{order}","lines":[{{"sku":"{tea}","quantity":3}},{{"sku":"{jam}","quantity":4}}]}}"#
    );
    let granted = node.post("/v1/reservations", &reserve);
    assert_eq!(granted.status, 201, "{}", granted.text());
    let granted = granted.json();
    let at_grant = position(&granted);
    assert_eq!(position(&granted["reservation"]), at_grant);
    // Others change the stock of its lines, and it changes itself.
    let answered = lines(&[
        receive("later", &tea, 100),
        receive("later", &jam, 100),
        format!(r#"{{"id":"c","type":"confirm","reservation":"{order}"}}"#),
    ]);
    lines(&[format!(
        r#"{{"id":"s","type":"ship","sku":"{tea}","location":"m","quantity":3,"reservation":"{order}"}}"#
    )]);
    let heard = || {
        let reservation = node.get(&format!("/v1/reservations/{order}")).json();
        (reservation["lines"][0]["shipped"] == 3).then(|| position(&reservation))
    };
    let mut polls = std::iter::repeat_with(heard).take(10_000);
    let shipped = polls.find_map(|position| position).unwrap();
    lines(&[
        receive("latest", &tea, 1_000),
        receive("latest", &jam, 1_000),
    ]);
    let at_grant_stock = |position: &str| {
        assert_eq!(known(&node, &tea, position), [10, 3, 0]);
        assert_eq!(known(&node, &jam, position), [27, 4, 0]);
    };
    at_grant_stock(&at_grant);

    // The same again, alone and within a stream, repeats it with the position it had.
    let again = node.post("/v1/reservations", &reserve).json();
    assert_eq!(again["status"], "duplicate");
    assert_eq!(position(&again["first"]), at_grant);
    let again = lines(std::slice::from_ref(&reserve));
    assert_eq!(again[0]["status"], "duplicate");
    at_grant_stock(&position(&again[0]["first"]));
    let asked = node.get("/v1/outcomes?source=http&id=r").json();
    assert_eq!(position(&asked["items"][0]), at_grant);

    // The outcome of the confirm, out of a stream, and what the stream says of all its lines.
    for confirmed in [&answered[2], &answered[3]["totals"]] {
        assert_eq!(known(&node, &tea, &position(confirmed)), [110, 0, 3]);
        assert_eq!(known(&node, &jam, &position(confirmed)), [127, 0, 4]);
    }
    assert_eq!(answered[2]["status"], "applied");

    // The reservation itself changed last when its owner heard of the ship; what is refused changes
    // nothing of it.
    assert_eq!(known(&node, &tea, &shipped), [107, 0, 0]);
    assert_eq!(known(&node, &jam, &shipped), [127, 0, 4]);
    let refused = node.command(&format!(
        r#"{{"id":"x","type":"confirm","reservation":"{order}","lines":[{{"line":2,"quantity":9}}]}}"#
    ));
    assert_eq!(refused.status, 409);
    assert_eq!(known(&node, &jam, &position(&refused.json())), [127, 0, 4]);
    let list = node.get("/v1/reservations").json();
    assert_eq!(position(&list["items"][0]), shipped);

    // A feed that keeps to a SKU of it resumes there.
    let feed = node.feed(&format!("?since={at_grant}&sku={tea}"), &[]);
    assert_eq!(feed.status, 200);
    let elsewhere = node.get(&format!("/v1/changes?since={at_grant}"));
    assert_eq!(elsewhere.status, 422, "it does not speak of the rest");
}

#[test]
fn a_refused_reservations_position_shows_what_refused_it() {
    let node = Node::start();
    let [tea, jam, order] = apart();
    let receive = |id: &str, sku: &str| {
        let line = format!(
            r#"{{"id":"{id}","type":"receive","sku":"{sku}","location":"m","quantity":5}}"#
        );
        assert_eq!(node.command(&line).status, 200);
    };
    receive("1", &tea);
    receive("1", &jam);
    let refused = node.post(
        "/v1/reservations",
        &format!(
            r#"{{"id":"r","reservation":"{order}","lines":[{{"sku":"{tea}","quantity":3}},{{"sku":"{jam}","quantity":6}}]}}"#
        ),
    );
    assert_eq!(refused.status, 409);
    receive("2", &tea);
    receive("2", &jam);
    let there = position(&refused.json());
    assert_eq!(known(&node, &tea, &there), [5, 0, 0]);
    assert_eq!(known(&node, &jam, &there), [5, 0, 0]);
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

#[test]
fn a_list_may_be_of_the_past() {
    let node = Node::start();
    let mut positions = Vec::new();
    for n in 0..30 {
        let sku = format!("S{n:02}");
        let fact = |id: &str, day: &str, location: &str, quantity: u32| {
            let answer = node.command(&format!(
                r#"{{"id":"{id}","type":"receive","sku":"{sku}","location":"{location}","quantity":{quantity},"occurred_at":"2026-01-{day}T00:00:00Z"}}"#
            ));
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()["position"].as_str().unwrap().to_owned()
        };
        positions.push(fact("1", "01", "a", n + 1));
        fact("2", "01", "b", 1);
        fact("3", "10", "a", 100);
    }
    let list = |query: &str| {
        let answer = node.get(&format!("/v1/stock?{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let then = list("as_of=2026-01-05T00:00:00Z&limit=1000");
    let items = then["items"].as_array().unwrap().clone();
    assert_eq!(items.len(), 60);
    assert_eq!(items[0]["on_hand"], 1);
    assert_eq!(items[58]["on_hand"], 30);
    // Each is what its own address says.
    for item in items.iter().step_by(7) {
        let (sku, location) = (
            item["sku"].as_str().unwrap(),
            item["location"].as_str().unwrap(),
        );
        let one = node.get(&format!(
            "/v1/stock/{sku}/{location}?as_of=2026-01-05T00:00:00Z"
        ));
        assert_eq!(&one.json(), item);
    }
    // Page by page it is the same list.
    let mut paged = Vec::new();
    let mut query = "as_of=2026-01-05T00:00:00Z&limit=7".to_owned();
    loop {
        let page = list(&query);
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("as_of=2026-01-05T00:00:00Z&limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, items);
    // With every filter.
    let count = |query: &str| list(query)["items"].as_array().unwrap().len();
    assert_eq!(count("as_of=2026-01-05T00:00:00Z&location=a&below=4"), 3);
    assert_eq!(count("as_of=2026-01-05T00:00:00Z&sku_prefix=S1"), 20);
    assert_eq!(count("as_of=2026-01-05T00:00:00Z&sku=S03"), 2);
    assert_eq!(count("as_of=2026-01-05T00:00:00Z&negative=true"), 0);
    assert_eq!(count("as_of=2025-01-05T00:00:00Z"), 0);
    // What was known at a time, or at a position: of one SKU where it speaks of one only.
    let now = jiff::Timestamp::now();
    assert_eq!(
        list(&format!("known_at={now}&limit=1000"))["items"],
        list("limit=1000")["items"]
    );
    let of_one = format!("known_at={}&sku=S03", positions[3]);
    assert_eq!(list(&of_one)["items"].as_array().unwrap().len(), 1);
    assert_eq!(list(&of_one)["items"][0]["on_hand"], 4);
    let of_all = node.get(&format!("/v1/stock?known_at={}", positions[3]));
    assert_eq!(of_all.status, 422, "{}", of_all.text());
    assert_eq!(node.get("/v1/stock?as_of=2999-01-01T00:00:00Z").status, 422);
}

#[test]
fn names_that_never_were_are_told_from_what_was_not_there_then() {
    let node = Node::start();
    node.command(r#"{"id":"1","type":"receive","sku":"85123A","location":"london","quantity":1}"#);
    let detail = |path: &str| {
        let answer = node.get(path);
        assert_eq!(answer.status, 404, "{}", answer.text());
        answer.json()["detail"].as_str().unwrap().to_owned()
    };
    let then = "as_of=2020-01-01T00:00:00Z";
    assert!(detail(&format!("/v1/stock/85123A?{then}")).contains("then"));
    assert!(detail(&format!("/v1/stock/85123A/london?{then}")).contains("then"));
    assert!(detail(&format!("/v1/stock/85123B?{then}")).contains("did you mean \"85123A\""));
    assert!(detail(&format!("/v1/stock/85123A/londno?{then}")).contains("did you mean \"london\""));
    let nonsense = node.get("/v1/stock/85123A?known_at=nonsense");
    assert_eq!(nonsense.status, 422);
    let said = nonsense.json()["detail"].as_str().unwrap().to_owned();
    assert!(said.contains("position") && said.contains("time"), "{said}");
}

#[test]
fn a_reader_that_has_the_level_is_not_sent_it_again() {
    let node = Node::start();
    node.command(r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":1}"#);
    let tag = node.get("/v1/stock/A/m").header("etag").unwrap().to_owned();
    let status = |known: &str| {
        let header = format!("If-None-Match: {known}");
        node.send("GET", "/v1/stock/A/m", &[&header], b"").status
    };
    assert_eq!(status(&tag), 304);
    assert_eq!(status(&format!("W/{tag}")), 304);
    assert_eq!(status(&format!("\"x\", {tag}")), 304);
    assert_eq!(status("*"), 304);
    assert_eq!(status("\"x\""), 200);
    node.command(r#"{"id":"2","type":"receive","sku":"A","location":"m","quantity":1}"#);
    assert_eq!(status(&tag), 200);
}
