//! What every engine promises, as checks that run on each of them.
//!
//! Each check opens a fresh log and shows one promise of [`Log`]. Nothing here needs what Apache
//! Kafka cannot do: offsets need not be dense, [`View::Latest`] need not run ahead of
//! [`View::Durable`], and an append needs a flush to end.

mod disk;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{
    Append, AppendError, BatchBuilder, Consumed, Counterpart, Ending, Header, Log, Offset,
    Progress, Purpose, ReadError, RecordBatch, Standing, Timestamp, Token, TopicError, TopicId,
    TopicPartition, TopicSpec, View,
};

/// How long a check waits for what must come. Far above any engine's group, so that only a broken
/// promise ends in it.
const PATIENCE: Duration = Duration::from_secs(30);

pub use disk::{Crash, FaultDisk, Operation};

/// Makes logs for the checks.
pub trait Engine {
    /// A log that holds nothing.
    fn fresh(&self) -> Arc<dyn Log>;

    /// Another process's view of the same log after this one was closed or went away, or `None`
    /// when the engine cannot persist.
    fn reopen(&self, log: Arc<dyn Log>) -> Option<Arc<dyn Log>>;
}

/// Runs all checks. Panics at the first promise that does not hold.
pub fn contract(engine: &dyn Engine) {
    for (name, check) in CHECKS {
        // Named before it runs, so that a hang shows where.
        println!("contract: {name}");
        check(engine);
    }
}

/// Every check with its name.
pub const CHECKS: &[(&str, fn(&dyn Engine))] = &[
    (
        "records_come_back_as_they_were_appended",
        records_come_back_as_they_were_appended,
    ),
    (
        "offsets_rise_and_reading_goes_on_at_next",
        offsets_rise_and_reading_goes_on_at_next,
    ),
    (
        "an_append_over_many_partitions_is_seen_whole",
        an_append_over_many_partitions_is_seen_whole,
    ),
    (
        "endings_come_once_and_in_order",
        endings_come_once_and_in_order,
    ),
    (
        "durable_reads_follow_the_ending",
        durable_reads_follow_the_ending,
    ),
    (
        "a_later_claim_fences_the_earlier_token",
        a_later_claim_fences_the_earlier_token,
    ),
    ("a_name_given_up_is_nobodys", a_name_given_up_is_nobodys),
    (
        "consumed_positions_travel_with_the_append",
        consumed_positions_travel_with_the_append,
    ),
    (
        "a_topic_is_found_again_and_never_changes",
        a_topic_is_found_again_and_never_changes,
    ),
    (
        "unknown_partitions_are_refused",
        unknown_partitions_are_refused,
    ),
    ("reading_outside_is_refused", reading_outside_is_refused),
    (
        "an_oversized_append_is_refused_whole",
        an_oversized_append_is_refused_whole,
    ),
    (
        "a_time_finds_its_first_offset",
        a_time_finds_its_first_offset,
    ),
    ("listeners_hear_of_progress", listeners_hear_of_progress),
    ("the_clock_never_goes_back", the_clock_never_goes_back),
    (
        "concurrent_appends_keep_one_order",
        concurrent_appends_keep_one_order,
    ),
    (
        "what_is_durable_is_there_after_a_restart",
        what_is_durable_is_there_after_a_restart,
    ),
    ("a_closed_log_accepts_nothing", a_closed_log_accepts_nothing),
];

/// A batch of one record without a key.
pub fn batch_of(timestamp: Timestamp, value: &[u8]) -> RecordBatch {
    batch(&[(timestamp, None, value)])
}

/// A batch of these records: timestamp, key, value.
///
/// # Panics
/// Without records.
pub fn batch(records: &[(Timestamp, Option<&[u8]>, &[u8])]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for (timestamp, key, value) in records {
        builder.push(*timestamp, *key, Some(value), &[]);
    }
    builder.finish().expect("a batch holds at least one record")
}

/// Creates a topic, or finds it.
///
/// # Panics
/// When the log refuses.
pub fn topic(log: &dyn Log, name: &str, partitions: u16) -> TopicId {
    let spec = TopicSpec {
        name: name.into(),
        partitions,
        compacted: false,
    };
    log.create_topic(&spec).expect("the topic can be created")
}

/// Appends these batches and waits for the ending.
///
/// # Panics
/// When the append is refused or does not end.
pub fn append_and_wait(
    log: &dyn Log,
    token: &Token,
    batches: Vec<(TopicPartition, RecordBatch)>,
) -> Ending {
    let ending = append(log, token, batches, Vec::new()).expect("the append is accepted");
    log.flush();
    ending
        .recv_timeout(PATIENCE)
        .expect("every accepted append ends")
}

/// Appends, and gives the receiver of its ending.
///
/// # Errors
/// As [`Log::append`].
pub fn append(
    log: &dyn Log,
    token: &Token,
    batches: Vec<(TopicPartition, RecordBatch)>,
    consumed: Vec<Consumed>,
) -> Result<Receiver<Ending>, AppendError> {
    let (sender, receiver) = channel();
    let on_end = Box::new(move |ending| {
        // A test that no longer waits has dropped the receiver.
        let _ = sender.send(ending);
    });
    // What says what it has consumed follows from that.
    let purpose = match consumed.is_empty() {
        true => Purpose::Intake,
        false => Purpose::Decision,
    };
    log.append(
        token,
        Append {
            purpose,
            batches,
            consumed,
            on_end: Some(on_end),
        },
    )?;
    Ok(receiver)
}

/// All records of a partition: offset and value.
///
/// # Panics
/// When reading fails.
pub fn read_all(log: &dyn Log, at: TopicPartition, view: View) -> Vec<(Offset, Vec<u8>)> {
    let mut records = Vec::new();
    let mut next = log.bounds(at, view).expect("the partition exists").start;
    loop {
        let fetch = log
            .read(at, next, 1 << 20, view)
            .expect("what is there can be read");
        if fetch.batches.is_empty() {
            return records;
        }
        for batch in &fetch.batches {
            for record in batch.records().filter(|record| record.offset >= next) {
                let value = record.value.unwrap_or_default().to_vec();
                records.push((record.offset, value));
            }
        }
        assert!(fetch.next > next, "a fetch with batches goes on");
        next = fetch.next;
    }
}

fn values(log: &dyn Log, at: TopicPartition, view: View) -> Vec<Vec<u8>> {
    read_all(log, at, view)
        .into_iter()
        .map(|(_, value)| value)
        .collect()
}

fn at(topic: TopicId, partition: u16) -> TopicPartition {
    TopicPartition { topic, partition }
}

fn claim(log: &dyn Log, owner: &str) -> Token {
    log.claim(owner).expect("the name can be claimed")
}

/// Key, value, headers and timestamp are what was given, absent parts included.
pub fn records_come_back_as_they_were_appended(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    let mut builder = BatchBuilder::new();
    let headers = [
        Header {
            key: "h",
            value: Some(b"1"),
        },
        Header {
            key: "none",
            value: None,
        },
    ];
    builder.push(5, Some(b"key"), Some(b"value"), &headers);
    builder.push(-7, None, None, &[]);
    builder.push(1 << 50, Some(b""), Some(b""), &[]);
    let batch = builder.finish().expect("three records");
    assert_eq!(
        append_and_wait(&*log, &token, vec![(place, batch)]),
        Ending::Durable
    );

    let start = log.bounds(place, View::Durable).expect("it exists").start;
    let fetch = log
        .read(place, start, 1, View::Durable)
        .expect("it can be read");
    let records: Vec<_> = fetch
        .batches
        .iter()
        .flat_map(RecordBatch::records)
        .collect();
    let [first, second, third] = records.as_slice() else {
        panic!("three records: {records:?}")
    };
    assert_eq!(
        (first.timestamp, first.key, first.value),
        (5, Some(&b"key"[..]), Some(&b"value"[..]))
    );
    assert_eq!(first.headers, headers);
    assert_eq!(
        (second.timestamp, second.key, second.value),
        (-7, None, None)
    );
    assert_eq!(
        (third.timestamp, third.key, third.value),
        (1 << 50, Some(&b""[..]), Some(&b""[..]))
    );
}

/// Offsets only rise, batches keep their order, and `next` leads through all of them once.
pub fn offsets_rise_and_reading_goes_on_at_next(engine: &dyn Engine) {
    let log = engine.fresh();
    let topic = topic(&*log, "t", 2);
    let token = claim(&*log, "o");
    for i in 0..50_u32 {
        let value = i.to_le_bytes();
        let two = vec![
            (at(topic, 1), batch_of(0, &value)),
            (at(topic, 1), batch_of(0, &(i + 1000).to_le_bytes())),
        ];
        assert_eq!(append_and_wait(&*log, &token, two), Ending::Durable);
    }
    let records = read_all(&*log, at(topic, 1), View::Durable);
    let expected: Vec<_> = (0..50_u32)
        .flat_map(|i| [i, i + 1000])
        .map(|i| i.to_le_bytes().to_vec())
        .collect();
    assert_eq!(
        records
            .iter()
            .map(|(_, value)| value.clone())
            .collect::<Vec<_>>(),
        expected
    );
    assert!(records.is_sorted_by_key(|(offset, _)| *offset));
    assert!(
        records
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.0 < b.0))
    );
    assert_eq!(read_all(&*log, at(topic, 0), View::Durable), []);

    let bounds = log.bounds(at(topic, 1), View::Durable).expect("it exists");
    assert!(
        records
            .iter()
            .all(|(offset, _)| (bounds.start..bounds.end).contains(offset))
    );
    for (offset, value) in &records {
        let fetch = log
            .read(at(topic, 1), *offset, 1, View::Durable)
            .expect("it can be read");
        let found = fetch.batches.iter().flat_map(RecordBatch::records);
        let found = found
            .filter(|record| record.offset == *offset)
            .map(|record| record.value);
        assert_eq!(found.collect::<Vec<_>>(), [Some(value.as_slice())]);
    }
}

/// One append, several topics and partitions: after it ended all are there.
pub fn an_append_over_many_partitions_is_seen_whole(engine: &dyn Engine) {
    let log = engine.fresh();
    let (a, b) = (topic(&*log, "a", 3), topic(&*log, "b", 2));
    let token = claim(&*log, "o");
    let places: Vec<_> = (0..3)
        .map(|p| at(a, p))
        .chain((0..2).map(|p| at(b, p)))
        .collect();
    let batches = places
        .iter()
        .map(|place| (*place, batch_of(1, b"x")))
        .collect();
    assert_eq!(append_and_wait(&*log, &token, batches), Ending::Durable);
    for place in places {
        assert_eq!(values(&*log, place, View::Durable), [b"x"], "{place:?}");
    }
}

/// Each accepted append ends exactly once, in the order of the appends.
pub fn endings_come_once_and_in_order(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    let (sender, receiver) = channel();
    for i in 0..100 {
        let sender = sender.clone();
        let on_end = Box::new(move |ending| {
            let _ = sender.send((i, ending));
        });
        let batches = vec![(place, batch_of(0, b"v"))];
        let consumed = Vec::new();
        let purpose = Purpose::Decision;
        log.append(
            &token,
            Append {
                purpose,
                batches,
                consumed,
                on_end: Some(on_end),
            },
        )
        .expect("it is accepted");
        if i % 7 == 0 {
            log.flush();
        }
    }
    drop(sender);
    log.flush();
    for i in 0..100 {
        let end = receiver.recv_timeout(PATIENCE).expect("every append ends");
        assert_eq!(end, (i, Ending::Durable));
    }
    // All senders are gone with their callbacks: none is called twice.
    assert!(receiver.recv_timeout(PATIENCE).is_err());
}

/// What ended durable is seen by a durable read at once; a durable read never sees more than the
/// latest one.
pub fn durable_reads_follow_the_ending(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    for i in 0..20_u8 {
        let ending = append(&*log, &token, vec![(place, batch_of(0, &[i]))], Vec::new());
        let ending = ending.expect("it is accepted");
        let durable = log.bounds(place, View::Durable).expect("it exists").end;
        let latest = log.bounds(place, View::Latest).expect("it exists").end;
        assert!(durable <= latest);
        log.flush();
        assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
        assert_eq!(
            values(&*log, place, View::Durable).len(),
            usize::from(i) + 1
        );
        assert_eq!(values(&*log, place, View::Latest).len(), usize::from(i) + 1);
    }
}

/// After a second claim the first token writes nothing: the append is refused or ends fenced.
pub fn a_later_claim_fences_the_earlier_token(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let first = claim(&*log, "o");
    let other = claim(&*log, "other");
    assert_eq!(
        append_and_wait(&*log, &first, vec![(place, batch_of(0, b"1"))]),
        Ending::Durable
    );
    let second = claim(&*log, "o");
    assert!(second.generation > first.generation);
    match append(
        &*log,
        &first,
        vec![(place, batch_of(0, b"stale"))],
        Vec::new(),
    ) {
        Err(AppendError::Fenced { owner }) => assert_eq!(&*owner, "o"),
        Err(error) => panic!("not the refusal that was promised: {error}"),
        Ok(ending) => {
            log.flush();
            assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Fenced));
        }
    }
    for token in [&second, &other] {
        assert_eq!(
            append_and_wait(&*log, token, vec![(place, batch_of(0, b"2"))]),
            Ending::Durable
        );
    }
    assert_eq!(values(&*log, place, View::Durable), [b"1", b"2", b"2"]);
}

/// Nothing is taken under a token that was given up, what it wrote and consumed stays, and the name can
/// be claimed again; an older token that is given up takes the name from nobody.
pub fn a_name_given_up_is_nobodys(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let first = claim(&*log, "o");
    assert_eq!(
        append_and_wait(&*log, &first, vec![(place, batch_of(0, b"1"))]),
        Ending::Durable
    );
    log.give_up(&first).expect("it is given up");
    let refused = append(&*log, &first, vec![(place, batch_of(0, b"x"))], Vec::new());
    let fenced = matches!(refused, Err(AppendError::Fenced { owner }) if &*owner == "o");
    assert!(fenced, "an append under a token that was given up");
    let second = claim(&*log, "o");
    assert!(second.generation > first.generation);
    log.give_up(&first).expect("an older token changes nothing");
    assert_eq!(
        append_and_wait(&*log, &second, vec![(place, batch_of(0, b"2"))]),
        Ending::Durable
    );
    assert_eq!(values(&*log, place, View::Durable), [b"1", b"2"]);
}

/// Input positions are the owner's own and move with the append that consumed them.
pub fn consumed_positions_travel_with_the_append(engine: &dyn Engine) {
    let log = engine.fresh();
    let input = topic(&*log, "in", 2);
    let output = at(topic(&*log, "out", 1), 0);
    let token = claim(&*log, "o");
    let other = claim(&*log, "other");
    assert_eq!(log.consumed("o", at(input, 0)), Ok(None));
    for next in [3, 9] {
        let consumed = vec![Consumed {
            at: at(input, 0),
            next,
        }];
        let batches = vec![(output, batch_of(0, b"v"))];
        let ending = append(&*log, &token, batches, consumed).expect("it is accepted");
        log.flush();
        assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
        assert_eq!(log.consumed("o", at(input, 0)), Ok(Some(next)));
    }
    let consumed = vec![Consumed {
        at: at(input, 1),
        next: 4,
    }];
    let ending = append(&*log, &other, Vec::new(), consumed).expect("without batches too");
    log.flush();
    assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
    assert_eq!(log.consumed("o", at(input, 1)), Ok(None));
    assert_eq!(log.consumed("other", at(input, 1)), Ok(Some(4)));
    assert_eq!(log.consumed("other", at(input, 0)), Ok(None));
}

/// Creating is finding; another specification is refused, with both in the message.
pub fn a_topic_is_found_again_and_never_changes(engine: &dyn Engine) {
    let log = engine.fresh();
    let spec = TopicSpec {
        name: "a.b-c_1".into(),
        partitions: 4,
        compacted: true,
    };
    let id = log.create_topic(&spec).expect("it is created");
    assert_eq!(log.create_topic(&spec), Ok(id));
    assert!(
        log.topics()
            .iter()
            .any(|topic| topic.id == id && topic.spec == spec)
    );
    for other in [
        TopicSpec {
            partitions: 5,
            ..spec.clone()
        },
        TopicSpec {
            compacted: false,
            ..spec
        },
    ] {
        let error = log.create_topic(&other).expect_err("it differs");
        assert!(matches!(&error, TopicError::Differs { .. }), "{error}");
        assert!(
            error.to_string().contains("4 partitions, compacted"),
            "{error}"
        );
    }
    for name in ["", ".", "..", "with space", "ü", &"x".repeat(250)] {
        let spec = TopicSpec {
            name: name.into(),
            partitions: 1,
            compacted: false,
        };
        assert_eq!(log.create_topic(&spec), Err(TopicError::Name(name.into())));
    }
    for partitions in [0, 1025] {
        let spec = TopicSpec {
            name: "p".into(),
            partitions,
            compacted: false,
        };
        assert_eq!(
            log.create_topic(&spec),
            Err(TopicError::Partitions(partitions))
        );
    }
}

/// A partition that does not exist is refused by name, and nothing of that append is written.
pub fn unknown_partitions_are_refused(engine: &dyn Engine) {
    let log = engine.fresh();
    let known = at(topic(&*log, "t", 2), 1);
    let token = claim(&*log, "o");
    for unknown in [at(known.topic, 2), at(TopicId(999), 0)] {
        let batches = vec![(known, batch_of(0, b"v")), (unknown, batch_of(0, b"v"))];
        let error = append(&*log, &token, batches, Vec::new()).expect_err("it is refused");
        assert_eq!(error, AppendError::UnknownTopic(unknown));
        let error = log
            .read(unknown, 0, 1, View::Latest)
            .expect_err("it is refused");
        assert_eq!(error, ReadError::UnknownTopic(unknown));
        assert!(log.bounds(unknown, View::Durable).is_err());
        assert!(log.offset_at(unknown, 0).is_err());
    }
    assert_eq!(values(&*log, known, View::Latest), Vec::<Vec<u8>>::new());
}

/// Below the start and above the end there is nothing to read, and the error says where there is;
/// at the end there is nothing yet.
pub fn reading_outside_is_refused(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    assert_eq!(
        append_and_wait(&*log, &token, vec![(place, batch_of(0, b"v"))]),
        Ending::Durable
    );
    let bounds = log.bounds(place, View::Latest).expect("it exists");
    for asked in [bounds.start - 1, bounds.end + 1] {
        match log.read(place, asked, 1, View::Durable) {
            Err(ReadError::OutOfRange {
                asked: said,
                start,
                end,
            }) => {
                assert_eq!((said, start, end), (asked, bounds.start, bounds.end));
            }
            other => panic!("offset {asked} of {bounds:?} gave {other:?}"),
        }
    }
    let fetch = log
        .read(place, bounds.end, 1, View::Durable)
        .expect("the end is in range");
    assert!(fetch.batches.is_empty());
    assert_eq!(fetch.next, bounds.end);
}

/// What no frame could hold is refused with its size, and nothing of it is written.
pub fn an_oversized_append_is_refused_whole(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    let huge = vec![7; 17 << 20];
    let batches = vec![(place, batch_of(0, b"small")), (place, batch_of(0, &huge))];
    match append(&*log, &token, batches, Vec::new()) {
        Err(AppendError::TooLarge { bytes, limit }) => assert!(bytes > limit),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let long = "x".repeat(300);
    assert!(matches!(
        log.claim(&long),
        Err(AppendError::TooLarge { bytes: 300, .. })
    ));
    assert_eq!(
        append_and_wait(&*log, &token, vec![(place, batch_of(0, b"v"))]),
        Ending::Durable
    );
    assert_eq!(values(&*log, place, View::Durable), [b"v"]);
}

/// The first record at or after a time is found, also where times do not rise.
pub fn a_time_finds_its_first_offset(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    assert_eq!(log.offset_at(place, 0), Ok(None));
    let times = [[100_i64, 110], [90, 95], [300, 200], [250, 400]];
    for pair in times {
        let records = pair.map(|time| (time, None, &b"v"[..]));
        assert_eq!(
            append_and_wait(&*log, &token, vec![(place, batch(&records))]),
            Ending::Durable
        );
    }
    let offsets: Vec<_> = read_all(&*log, place, View::Durable)
        .iter()
        .map(|(offset, _)| *offset)
        .collect();
    let all: Vec<_> = times.iter().flatten().zip(&offsets).collect();
    for time in [0, 90, 100, 101, 110, 111, 250, 300, 301, 400, 401] {
        let first = all
            .iter()
            .find(|(t, _)| **t >= time)
            .map(|(_, offset)| **offset);
        assert_eq!(log.offset_at(place, time), Ok(first), "time {time}");
    }
}

/// Listeners hear when more can be read, durable or not, and when nothing more will come.
pub fn listeners_hear_of_progress(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    log.listen(Box::new(move |progress| {
        let _ = sender.lock().map(|sender| sender.send(progress));
    }));
    let heard = |wanted: Progress| {
        while receiver.recv_timeout(PATIENCE).expect("it is told") != wanted {}
    };
    let ending = append(&*log, &token, vec![(place, batch_of(0, b"v"))], Vec::new());
    let ending = ending.expect("it is accepted");
    heard(Progress::Appended);
    log.flush();
    heard(Progress::Durable);
    assert_eq!(
        log.bounds(place, View::Durable),
        log.bounds(place, View::Latest)
    );
    assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
    log.close().expect("it closes");
    heard(Progress::Stopped);
}

/// The clock never shows less than before.
pub fn the_clock_never_goes_back(engine: &dyn Engine) {
    let log = engine.fresh();
    let mut before = log.now();
    assert!(
        before > 1_500_000_000_000,
        "{before} is not in milliseconds since 1970"
    );
    for _ in 0..10_000 {
        let now = log.now();
        assert!(now >= before, "{now} after {before}");
        before = now;
    }
}

/// Appends from many threads: each thread's own order is kept, none is lost, none comes twice, and
/// batches of one append lie together in their order.
pub fn concurrent_appends_keep_one_order(engine: &dyn Engine) {
    const THREADS: u8 = 8;
    const EACH: u32 = 100;
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                let token = claim(&*log, &format!("o{thread}"));
                let mut endings = Vec::new();
                for i in 0..EACH {
                    let mut value = vec![thread];
                    value.extend_from_slice(&i.to_le_bytes());
                    let batches = vec![(place, batch_of(0, &value)), (place, batch_of(0, &value))];
                    let ending = append(&*log, &token, batches, Vec::new());
                    endings.push(ending.expect("it is accepted"));
                    if i % 10 == 0 {
                        log.flush();
                    }
                }
                log.flush();
                for ending in endings {
                    assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
                }
            });
        }
    });
    let all = values(&*log, place, View::Durable);
    let mut by_thread: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for pair in all.chunks(2) {
        let [first, second] = pair else {
            panic!("an odd number of records")
        };
        assert_eq!(first, second, "an append was split");
        let (thread, rest) = first.split_first().expect("values are not empty");
        by_thread.entry(*thread).or_default().push(rest.to_vec());
    }
    let expected: Vec<_> = (0..EACH).map(|i| i.to_le_bytes().to_vec()).collect();
    assert_eq!(by_thread.len(), usize::from(THREADS));
    assert!(by_thread.values().all(|own| *own == expected));
}

/// After a clean end everything is as it was: records, topics, positions, epoch; generations and
/// the clock go on from there.
pub fn what_is_durable_is_there_after_a_restart(engine: &dyn Engine) {
    let log = engine.fresh();
    let (a, b) = (topic(&*log, "a", 2), topic(&*log, "b", 1));
    let token = claim(&*log, "o");
    for i in 0..30_u8 {
        let batches = vec![
            (at(a, u16::from(i % 2)), batch_of(i64::from(i), &[i])),
            (at(b, 0), batch_of(i64::from(i), &[i, i])),
        ];
        let consumed = vec![Consumed {
            at: at(a, 0),
            next: Offset::from(i),
        }];
        let ending = append(&*log, &token, batches, consumed).expect("it is accepted");
        log.flush();
        assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
    }
    let places = [at(a, 0), at(a, 1), at(b, 0)];
    let before = places.map(|place| read_all(&*log, place, View::Durable));
    let (epoch, topics, now) = (log.epoch(), log.topics(), log.now());
    assert_eq!(log.standing(), Standing::Own);
    let standing = Standing::Copy(Counterpart::new(7, "elsewhere"));
    log.set_standing(&standing).expect("it is accepted");
    let id = log.id();
    log.close().expect("it closes");
    let Some(log) = engine.reopen(log) else {
        return;
    };
    assert_eq!(
        places.map(|place| read_all(&*log, place, View::Durable)),
        before
    );
    assert_eq!((log.epoch(), log.topics()), (epoch, topics));
    assert_eq!((log.id(), log.standing()), (id, standing));
    assert!(log.now() >= now);
    assert_eq!(log.consumed("o", at(a, 0)), Ok(Some(29)));
    let again = claim(&*log, "o");
    assert!(again.generation > token.generation);
    assert_eq!(
        append_and_wait(&*log, &again, vec![(at(b, 0), batch_of(0, b"n"))]),
        Ending::Durable
    );
    assert_eq!(read_all(&*log, at(b, 0), View::Durable).len(), 31);
}

/// A closed log finishes what it accepted, then refuses everything, and is still read.
pub fn a_closed_log_accepts_nothing(engine: &dyn Engine) {
    let log = engine.fresh();
    let place = at(topic(&*log, "t", 1), 0);
    let token = claim(&*log, "o");
    let ending = append(&*log, &token, vec![(place, batch_of(0, b"v"))], Vec::new());
    let ending = ending.expect("it is accepted");
    log.close().expect("it closes");
    assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
    let refused = append(&*log, &token, vec![(place, batch_of(0, b"v"))], Vec::new());
    assert!(matches!(refused, Err(AppendError::Stopped(_))));
    assert!(matches!(log.claim("o"), Err(AppendError::Stopped(_))));
    assert!(matches!(log.close(), Err(AppendError::Stopped(_))));
    assert_eq!(values(&*log, place, View::Durable), [b"v"]);
}
