//! What the gate makes of records.

use super::*;

const PARTITIONS: u16 = 4;

/// A log in which these records were put through the gate.
fn through_the_gate(records: &[Seen]) -> Arc<dyn Log> {
    let (_, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    write(log.as_ref(), records);
    let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
    eventually("all is taken", || {
        has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
    });
    residents.stop();
    log
}

fn headers(pairs: &[(&str, &[u8])]) -> Vec<(String, Option<Vec<u8>>)> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), Some(value.to_vec())))
        .collect()
}

#[test]
fn a_command_goes_to_the_owner_of_its_key_from_whichever_partition() {
    let records: Vec<Seen> = (0..64)
        .map(|n| receive(n % PARTITIONS, &n.to_string(), &format!("SKU-{}", n % 8)))
        .collect();
    let log = through_the_gate(&records);
    let taken = taken(log.as_ref());
    assert_eq!(taken.len(), 64);
    for (partition, _, _, sku) in &taken {
        assert_eq!(*partition, partition_of(sku.as_bytes(), PARTITIONS));
    }
    // In the order in which they stood in their partition of the inbox.
    for sku in 0..8 {
        for inbox in 0..u32::from(PARTITIONS) {
            let ids: Vec<u32> = taken
                .iter()
                .filter(|(.., key)| *key == format!("SKU-{sku}"))
                .map(|(_, _, id, _)| id.parse().unwrap())
                .filter(|id| id % u32::from(PARTITIONS) == inbox)
                .collect();
            assert!(ids.is_sorted(), "{ids:?}");
        }
    }
    assert!(all(log.as_ref(), topics::DEAD_LETTERS).is_empty());
}

#[test]
fn a_missing_name_is_the_records_place_and_headers_may_give_it() {
    let bare = r#"{"type":"receive","sku":"A","location":"m","quantity":1}"#;
    let named =
        r#"{"source":"till","id":"9","type":"receive","sku":"A","location":"m","quantity":1}"#;
    let with = |json: &str, pairs: &[(&str, &[u8])]| Seen {
        headers: headers(pairs),
        ..command(2, json)
    };
    let log = through_the_gate(&[
        command(2, bare),
        with(bare, &[("source", b"pos"), ("id", b"17")]),
        with(bare, &[("id", b"18"), ("trace", b"\xff")]),
        with(named, &[("source", b"till"), ("id", b"9")]),
        with(named, &[("source", b"other")]),
        with(named, &[("id", b"10")]),
        with(bare, &[("id", b"a"), ("id", b"b")]),
        with(bare, &[("id", b"\xff")]),
        with(bare, &[("source", b"onhand/x")]),
    ]);
    let names: Vec<_> = taken(log.as_ref())
        .into_iter()
        .map(|(_, source, id, _)| format!("{source} {id}"))
        .collect();
    // The same place in a copy of this log is another record.
    let place = format!("inbox {:016x}-2-0", log.id());
    assert_eq!(names, [&place, "pos 17", "inbox 18", "till 9"]);
    let reasons: Vec<_> = all(log.as_ref(), topics::DEAD_LETTERS)
        .iter()
        .map(|letter| letter.header("reason").unwrap().to_owned())
        .collect();
    let expected = [
        "source differs from the header source; send one of them, or both alike",
        "id differs from the header id; send one of them, or both alike",
        "id as a header comes more than once; send it once",
        "id as a header is no UTF-8; send text in UTF-8",
        "source \"onhand/x\" is the node's own; send another source",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn what_cannot_be_taken_is_kept_whole_with_where_it_came_from_and_why() {
    let strange = Seen {
        partition: 3,
        offset: 0,
        timestamp: -5,
        key: Some(b"\xfe\xff".to_vec()),
        value: Some(b"\x00\xff garbage".to_vec()),
        headers: vec![
            ("reason".to_owned(), Some(b"the sender's own".to_vec())),
            ("h".to_owned(), None),
        ],
    };
    let tombstone = Seen {
        partition: 3,
        key: Some(b"k".to_vec()),
        ..Seen::default()
    };
    let long = command(3, vec![b' '; (512 << 10) + 1]);
    let wrong = command(
        3,
        r#"{"type":"receive","sku":"A","location":"m","quantity":-1}"#,
    );
    let typo = command(3, r#"{"type":"recieve"}"#);
    let records = [strange, tombstone, command(3, ""), long, wrong, typo];
    let log = through_the_gate(&records);
    assert!(taken(log.as_ref()).is_empty());
    let letters = all(log.as_ref(), topics::DEAD_LETTERS);
    assert_eq!(letters.len(), records.len());
    for (offset, (letter, record)) in letters.iter().zip(&records).enumerate() {
        assert_eq!(letter.partition, 3);
        assert_eq!((&letter.key, &letter.value), (&record.key, &record.value));
        assert_eq!(letter.headers.get(6..), Some(&record.headers[..]));
        let header = |name| letter.header(name).unwrap();
        assert_eq!(header("origin.topic"), "stock.inbox");
        assert_eq!(header("origin.partition"), "3");
        assert_eq!(header("origin.offset"), offset.to_string());
        assert_eq!(header("origin.timestamp"), record.timestamp.to_string());
        assert_eq!(header("attempts"), "1");
    }
    let reasons: Vec<_> = letters
        .iter()
        .map(|l| l.header("reason").unwrap())
        .collect();
    let begins = [
        "the command is no UTF-8; send JSON in UTF-8",
        "the command has no value; send one JSON object",
        "the command cannot be read: EOF while parsing a value at line 1 column 0; send one JSON object",
        "the command is longer than 524288 B; send one command in each record",
        "quantity ",
        "type \"recieve\" is no type; did you mean \"receive\"?",
    ];
    for (reason, begin) in reasons.iter().zip(begins) {
        assert!(reason.starts_with(begin), "{reason}");
    }
}

#[test]
fn a_record_too_large_to_be_kept_says_where_it_is() {
    let log = through_the_gate(&[command(0, vec![b'x'; 15 << 20]), receive(0, "1", "A")]);
    let letters = all(log.as_ref(), topics::DEAD_LETTERS);
    assert_eq!(letters[0].value.as_ref().map(Vec::len), Some(15 << 20));

    let log = through_the_gate(&[command(0, vec![b'x'; (15 << 20) + 1]), receive(0, "1", "A")]);
    let letters = all(log.as_ref(), topics::DEAD_LETTERS);
    assert_eq!(letters[0].value, None);
    let reason = letters[0].header("reason").unwrap();
    assert!(reason.ends_with("read it at its origin"), "{reason}");
    assert_eq!(taken(log.as_ref()).len(), 1, "the next one is taken");
}
