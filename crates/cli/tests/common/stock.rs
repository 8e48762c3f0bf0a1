//! Commands as JSON, and the levels that come back.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::http::Http;
use super::until;

/// A fact about one unit of stock at location `main`.
pub(crate) fn fact(kind: &str, source: &str, id: &str, sku: &str, quantity: i64) -> Value {
    json!({
        "type": kind, "source": source, "id": id,
        "sku": sku, "location": "main", "quantity": quantity,
    })
}

/// The same as a line of NDJSON.
pub(crate) fn line(kind: &str, source: &str, id: &str, sku: &str, quantity: i64) -> String {
    let mut line = fact(kind, source, id, sku, quantity).to_string();
    line.push('\n');
    line
}

/// A level as the node tells it; every figure must be there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Level {
    pub(crate) sku: String,
    pub(crate) location: String,
    pub(crate) on_hand: i64,
    pub(crate) available: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
    pub(crate) safety_stock: i64,
    pub(crate) incoming: i64,
    pub(crate) in_transit: i64,
    pub(crate) sequence: u64,
    pub(crate) position: String,
    pub(crate) at: String,
}

/// By SKU and location, in byte order.
pub(crate) type Levels = BTreeMap<(String, String), Level>;

impl Level {
    pub(crate) fn read(value: &Value) -> Level {
        Level::deserialize(value).unwrap_or_else(|error| panic!("no level ({error}): {value}"))
    }

    pub(crate) fn key(&self) -> (String, String) {
        (self.sku.clone(), self.location.clone())
    }
}

/// Every level of the node, page by page; the pages must come in byte order without overlap.
pub(crate) fn levels(http: &mut Http) -> Levels {
    let mut levels = Levels::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut path = "/v1/stock?limit=500".to_owned();
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={}", encode(cursor)));
        }
        // An instance that lost its place begins anew, as it may when brokers died, and says so meanwhile.
        let answer = until("the node answers reads", || {
            let answer = http.get(&path).unwrap();
            (answer.status() != 503).then_some(answer)
        });
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let page = answer.json();
        for item in page["items"].as_array().expect("a list has items") {
            let level = Level::read(item);
            let key = level.key();
            if let Some((last, _)) = levels.last_key_value() {
                assert!(*last < key, "levels in byte order: {last:?} before {key:?}");
            }
            levels.insert(key, level);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return levels,
        }
    }
}

/// One SKU's level at `main`.
pub(crate) fn level(http: &mut Http, sku: &str) -> Level {
    let answer = http
        .get(&format!("/v1/stock/{}/main", encode(sku)))
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    Level::read(&answer.json())
}

/// One path segment or query value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// What an outcome says in the end: a duplicate is judged by its first outcome.
pub(crate) fn judged(outcome: &Value) -> &str {
    let status = outcome["status"]
        .as_str()
        .unwrap_or_else(|| panic!("no outcome: {outcome}"));
    if status == "duplicate" {
        return outcome["first"]["status"]
            .as_str()
            .unwrap_or_else(|| panic!("a duplicate carries its first outcome: {outcome}"));
    }
    status
}

/// The stock that one import of the online-retail file into an empty node must give.
pub(crate) fn check_online_retail(levels: &Levels) {
    use sha2::{Digest as _, Sha256};
    let mut digest = Sha256::new();
    for level in levels.values() {
        assert_eq!(level.location, "main");
        digest.update(format!("{},{}\n", level.sku, level.on_hand));
    }
    let on_hand = |sku: &str| levels[&(sku.to_owned(), "main".to_owned())].on_hand;
    assert_eq!(levels.len(), 3_648, "SKUs");
    assert_eq!(
        levels.values().map(|level| level.on_hand).sum::<i64>(),
        -3_268_146,
        "on hand"
    );
    assert_eq!(
        levels.values().filter(|level| level.on_hand < 0).count(),
        3_550,
        "negative SKUs"
    );
    assert_eq!(on_hand("85123A"), -21_413);
    assert_eq!(on_hand("22423"), -9_900);
    assert_eq!(on_hand("84077"), -36_226);
    assert_eq!(
        levels.values().map(|level| level.on_hand).min(),
        Some(-36_226),
        "the lowest"
    );
    let hex: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex, "5d7e6e58bce3332e7c2495f7c0545b7bdd1cbbbbbef20a38099b53513ae6b0a4",
        "sha256 of `SKU,on_hand` lines"
    );
}
