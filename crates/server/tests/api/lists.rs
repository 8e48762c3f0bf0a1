//! Lists over all partitions: order, filters, cursors.

use serde_json::Value;

use crate::support::Node;

fn filled(node: &Node) {
    let mut lines = String::new();
    for n in 0..300 {
        for location in ["a", "b", "c"] {
            lines.push_str(&format!(
                "{{\"id\":\"{n}-{location}\",\"type\":\"receive\",\"sku\":\"P{n:03}\",\"location\":\"{location}\",\"quantity\":{}}}\n",
                n + 1
            ));
        }
    }
    lines.push_str(
        "{\"id\":\"neg\",\"type\":\"ship\",\"sku\":\"P007\",\"location\":\"b\",\"quantity\":100}\n",
    );
    let totals = node.stream("?results=problems", &lines);
    assert_eq!(totals.len(), 1, "{totals:?}");
}

/// Every item of a list, page by page.
fn pages(node: &Node, path: &str, limit: usize) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.get(&format!("{path}limit={limit}{cursor}")).json();
        let page_items = page["items"].as_array().unwrap();
        assert!(page_items.len() <= limit);
        items.extend(page_items.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

#[test]
fn stock_is_listed_in_byte_order_over_all_partitions_however_it_is_paged() {
    let node = Node::start();
    filled(&node);
    let all = pages(&node, "/v1/stock?", 1_000);
    assert_eq!(all.len(), 900);
    let names: Vec<(&str, &str)> = all
        .iter()
        .map(|level| {
            (
                level["sku"].as_str().unwrap(),
                level["location"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(names.is_sorted());
    for limit in [7, 100] {
        assert_eq!(pages(&node, "/v1/stock?", limit), all, "pages of {limit}");
    }
    assert_eq!(pages(&node, "/v1/stock?location=b&", 50).len(), 300);
    assert_eq!(pages(&node, "/v1/stock?sku_prefix=P01&", 4).len(), 30);
    assert_eq!(pages(&node, "/v1/stock?sku=P017&", 2).len(), 3);
    let negative = pages(&node, "/v1/stock?negative=true&", 10);
    assert_eq!(negative.len(), 1);
    assert_eq!(negative[0]["on_hand"], -92);
    // 1 to 9 in three places, and the negative one, which is counted already.
    assert_eq!(pages(&node, "/v1/stock?below=10&", 5).len(), 27);
    assert_eq!(node.get("/v1/stock?cursor=zzz").status, 422);
    assert_eq!(node.get("/v1/stock?below=1e3").status, 422);
    let oversold = node.get("/v1/conflicts?kind=oversell").json();
    assert_eq!(oversold["items"][0]["available"], -92);
}

#[test]
fn an_unknown_sku_is_answered_with_near_spellings() {
    let node = Node::start();
    filled(&node);
    let answer = node.get("/v1/stock/p007");
    assert_eq!(answer.status, 404);
    let near = answer.json()["near"].as_array().unwrap().clone();
    assert!(near.contains(&Value::from("P007")), "{near:?}");
    let place = node.get("/v1/stock/P007/bb");
    assert_eq!(place.status, 404);
    assert_eq!(place.json()["near"][0], "b");
    assert_eq!(node.get("/v1/stock/zzzzzz").json()["near"], Value::Null);
}

#[test]
fn names_with_any_characters_are_one_segment_each() {
    let node = Node::start();
    let line = r#"{"id":"1","type":"receive","sku":"a/b c?%é","location":"l/1","quantity":1}"#;
    assert_eq!(node.command(line).status, 200);
    let level = node.get("/v1/stock/a%2Fb%20c%3F%25%C3%A9/l%2F1");
    assert_eq!(level.status, 200, "{}", level.text());
    assert_eq!(level.json()["sku"], "a/b c?%é");
    assert_eq!(node.get("/v1/stock/%ff").status, 400);
}

#[test]
fn a_level_has_a_validator_that_changes_with_it() {
    let node = Node::start();
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":1}"#;
    node.command(line);
    let first = node.get("/v1/stock/A/m");
    let etag = first.header("etag").unwrap().to_owned();
    let same = node.send(
        "GET",
        "/v1/stock/A/m",
        &[&format!("If-None-Match: {etag}")],
        b"",
    );
    assert_eq!(same.status, 304);
    node.command(&line.replace("\"1\"", "\"2\""));
    let changed = node.send(
        "GET",
        "/v1/stock/A/m",
        &[&format!("If-None-Match: {etag}")],
        b"",
    );
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
}
