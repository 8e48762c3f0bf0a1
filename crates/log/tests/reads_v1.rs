//! Today's code reads the journal that version 1 of the format wrote: `fixtures/v1`.
//!
//! The fixture has three segments, two of them with a footer, a release, two sessions and a clean end.
//! `ONHAND_WRITE_FIXTURE=DIR` makes a new one there with today's code, for the next version.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::path::Path;

use onhand_log::journal::{Journal, JournalConfig, JournalReader, check};
use onhand_log::testing::{append_and_wait, read_all};
use onhand_log::{
    Append, BatchBuilder, Consumed, Header, Log, Purpose, RecordBatch, TopicId, TopicPartition,
    TopicSpec, View,
};

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        ..JournalConfig::new(dir)
    }
}

const ORDERS: TopicPartition = TopicPartition {
    topic: TopicId(0),
    partition: 1,
};
const STATE: TopicPartition = TopicPartition {
    topic: TopicId(1),
    partition: 0,
};
const APPENDS: i64 = 150;

fn batch(i: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    let headers = [
        Header {
            key: "kind",
            value: Some(b"sale"),
        },
        Header {
            key: "n",
            value: None,
        },
    ];
    let value = format!("order {i} {}", "x".repeat(500));
    builder.push(
        1_291_191_960_000 + i,
        Some(b"sku"),
        Some(value.as_bytes()),
        &headers,
    );
    builder.push(1_291_191_960_000 - i, None, None, &[]);
    builder.finish().unwrap()
}

fn write(dir: &Path) {
    let spec = |name: &str, partitions, compacted| TopicSpec {
        name: name.into(),
        partitions,
        compacted,
    };
    let journal = Journal::open(config(dir)).unwrap();
    assert_eq!(
        journal.create_topic(&spec("orders", 3, false)),
        Ok(ORDERS.topic)
    );
    assert_eq!(
        journal.create_topic(&spec("state", 1, true)),
        Ok(STATE.topic)
    );
    let token = journal.claim("task/1").unwrap();
    for i in 0..APPENDS {
        let append = Append {
            purpose: Purpose::Decision,
            batches: vec![(ORDERS, batch(i)), (STATE, batch(-i))],
            consumed: vec![Consumed {
                at: ORDERS,
                next: i,
            }],
            on_end: None,
        };
        journal.append(&token, append).unwrap();
        journal.flush();
    }
    journal.release(2).unwrap();
    journal.close().unwrap();
    let journal = Journal::open(config(dir)).unwrap();
    let token = journal.claim("task/1").unwrap();
    append_and_wait(&journal, &token, vec![(ORDERS, batch(APPENDS))]);
    journal.close().unwrap();
    // Prepared segments hold nothing of worth, and the lock is made by whoever opens.
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("segment-")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn verify(records: &[(i64, Vec<u8>)], start: i64, sign: i64, last: i64) {
    assert_eq!(
        records.len(),
        usize::try_from(2 * (last + 1) - start).unwrap()
    );
    for (offset, value) in records {
        let i = sign * (offset / 2);
        let expected = batch(i);
        let expected = expected.records().nth(usize::try_from(offset % 2).unwrap());
        assert_eq!(
            value,
            expected.unwrap().value.unwrap_or_default(),
            "offset {offset}"
        );
    }
}

#[test]
fn reads_v1() {
    if let Some(dir) = std::env::var_os("ONHAND_WRITE_FIXTURE") {
        write(Path::new(&dir));
    }
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1");
    let copy = tempfile::TempDir::new().unwrap();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let report = check(copy.path()).unwrap();
    assert!(report.is_good() && report.sealed, "{report:?}");
    assert_eq!(report.segments, 3);

    let reader = JournalReader::open(copy.path()).unwrap();
    let epoch = reader.epoch();
    let start = reader.bounds(ORDERS).unwrap().start;
    assert!(start > 0, "the first segment was released");
    assert_eq!(
        reader.recovery().footers_rebuilt,
        0,
        "the footer is readable"
    );
    assert_eq!(
        reader.offset_at(ORDERS, 1_291_191_960_000 + 140).unwrap(),
        Some(280)
    );

    let journal = Journal::open(config(copy.path())).unwrap();
    assert_eq!(journal.epoch(), epoch);
    assert_eq!(journal.consumed("task/1", ORDERS), Ok(Some(APPENDS - 1)));
    let topics = journal.topics();
    let named = topics
        .iter()
        .map(|topic| (topic.spec.name.as_str(), topic.spec.compacted));
    assert_eq!(
        named.collect::<Vec<_>>(),
        [("orders", false), ("state", true)]
    );
    verify(
        &read_all(&journal, ORDERS, View::Durable),
        start,
        1,
        APPENDS,
    );
    let start = journal.bounds(STATE, View::Durable).unwrap().start;
    verify(
        &read_all(&journal, STATE, View::Durable),
        start,
        -1,
        APPENDS - 1,
    );
    let first = journal.read(ORDERS, 200, 1, View::Durable).unwrap();
    let record = first.batches[0].records().next().unwrap();
    assert_eq!(record.headers.len(), 2);
    assert_eq!(
        (record.key, record.timestamp),
        (Some(&b"sku"[..]), 1_291_191_960_100)
    );

    let token = journal.claim("task/1").unwrap();
    append_and_wait(&journal, &token, vec![(ORDERS, batch(APPENDS + 1))]);
    journal.close().unwrap();
    assert!(check(copy.path()).unwrap().is_good());
}
