//! The published changes, held against the levels.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::PATIENCE;
use super::http::Http;
use super::stock::Levels;

/// Waits until `stock.changes` holds the newest change of every level: of each SKU and location all from
/// the first on, in order, without a gap or a repeat.
pub(crate) fn await_published(http: &mut Http, partitions: u64, levels: &Levels) {
    let begin = Instant::now();
    let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut offsets: Vec<Option<u64>> = (0..partitions).map(|_| None).collect();
    loop {
        for (partition, offset) in offsets.iter_mut().enumerate() {
            *offset = Some(read_on(http, partition, *offset, &mut newest));
        }
        let behind = levels
            .iter()
            .find(|(key, level)| newest.get(*key) != Some(&level.sequence));
        let Some((key, level)) = behind else { return };
        assert!(
            begin.elapsed() < PATIENCE,
            "stock.changes stays behind: of {key:?} it has {:?} of {}",
            newest.get(key),
            level.sequence
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Reads a partition to its end; the offset behind it.
fn read_on(
    http: &mut Http,
    partition: usize,
    offset: Option<u64>,
    newest: &mut BTreeMap<(String, String), u64>,
) -> u64 {
    let mut from = offset;
    loop {
        let at = from.map_or_else(String::new, |from| format!("&offset={from}"));
        let path = format!("/v1/topics/stock.changes/records?partition={partition}&limit=1000{at}");
        let answer = http.get(&path).unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let body = answer.json();
        for record in body["items"].as_array().unwrap() {
            let value = STANDARD.decode(record["value"].as_str().unwrap()).unwrap();
            let change: Value = serde_json::from_slice(&value).unwrap();
            let text = |name: &str| change[name].as_str().unwrap().to_owned();
            let key = (text("sku"), text("location"));
            let sequence = change["sequence"].as_u64().unwrap();
            let last = newest.insert(key.clone(), sequence).unwrap_or(0);
            assert_eq!(sequence, last + 1, "{key:?} in stock.changes: {change}");
        }
        let next = body["next_offset"].as_u64().unwrap();
        if from == Some(next) {
            return next;
        }
        from = Some(next);
    }
}
