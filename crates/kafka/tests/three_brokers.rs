//! What holds on three brokers, and while they go and come back.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics says where"
)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use common::{Brokers, Fresh, alone, eventually, prefix, whole};
use onhand_kafka::{KafkaLog, OpenError};
use onhand_log::testing::{append_and_wait, batch_of, contract, read_all, topic};
use onhand_log::{
    Append, AppendError, Consumed, Ending, Log, Purpose, ReadError, TopicError, TopicPartition,
    TopicSpec, View,
};

static BROKERS: LazyLock<Brokers> = LazyLock::new(|| Brokers::shared(3));

#[test]
fn the_contract_holds_on_three_brokers() {
    let _whole = whole();
    contract(&Fresh::on(&BROKERS));
}

#[test]
fn a_topic_with_one_copy_is_named_and_refused() {
    if !BROKERS.are_ours() {
        return;
    }
    let _whole = whole();
    let prefix = prefix();
    let name = format!("{prefix}t");
    let class = "org.apache.kafka.tools.TopicCommand";
    let one = [
        "--create",
        "--topic",
        &name,
        "--partitions",
        "2",
        "--replication-factor",
        "1",
    ];
    BROKERS.kafka(
        class,
        &[&one[..], &["--config", "min.insync.replicas=1"]].concat(),
    );
    let log = BROKERS.open(&prefix, "a");
    let spec = |partitions| TopicSpec {
        name: "t".into(),
        partitions,
        compacted: false,
    };
    let error = log.create_topic(&spec(2)).expect_err("it could lose data");
    assert!(matches!(error, TopicError::Unsafe(_)), "{error}");
    let error = error.to_string();
    for part in [
        &format!("topic {name} has 1 copies where 3 are wanted: kafka-reassign-partitions.sh"),
        "--add-config min.insync.replicas=2",
        "--add-config retention.ms=-1",
        "--add-config message.timestamp.after.max.ms=9223372036854775807",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let error = log
        .create_topic(&spec(4))
        .expect_err("it has two partitions");
    assert!(matches!(error, TopicError::Differs { .. }), "{error}");
    drop(log);

    let mut settings = BROKERS.settings(&prefix, "a");
    settings.allow_unsafe_topics = true;
    let log = KafkaLog::open(settings).unwrap();
    log.create_topic(&spec(2)).expect("it is allowed");
    drop(log);
    let error = KafkaLog::open(BROKERS.settings(&prefix, "a")).expect_err("not any more");
    assert!(
        matches!(&error, OpenError::UnsafeTopics(found) if !found.is_empty()),
        "{error}"
    );
}

/// What became of each append of a steady load.
#[derive(Default)]
struct Load {
    ended: Mutex<BTreeMap<u64, Ending>>,
    /// An append did not end well: nothing more is written until the next claim.
    lost: AtomicBool,
    stop: AtomicBool,
}

impl Load {
    /// Appends numbered values, each to two partitions and with a position, until told to stop.
    /// Names that were lost are claimed again.
    fn run(self: &Arc<Self>, log: &KafkaLog, places: [TopicPartition; 2]) -> u64 {
        let mut token = log.claim("task/0").expect("it is ours");
        let mut number = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            if self.lost.swap(false, Ordering::Relaxed) {
                match log.claim("task/0") {
                    Ok(claimed) => token = claimed,
                    Err(AppendError::Unreachable(_)) => {
                        self.lost.store(true, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let value = number.to_string();
            let told = Arc::clone(self);
            let append = Append {
                purpose: Purpose::Decision,
                batches: places
                    .map(|at| (at, batch_of(1, value.as_bytes())))
                    .to_vec(),
                consumed: vec![Consumed {
                    at: places[0],
                    next: i64::try_from(number).unwrap(),
                }],
                on_end: Some(Box::new(move |ending| {
                    if ending != Ending::Durable {
                        told.lost.store(true, Ordering::Relaxed);
                    }
                    let before = told.ended.lock().unwrap().insert(number, ending);
                    assert_eq!(before, None, "{number} ended twice");
                })),
            };
            match log.append(&token, append) {
                Ok(()) => {
                    number += 1;
                    log.flush();
                }
                Err(AppendError::Fenced { .. }) => self.lost.store(true, Ordering::Relaxed),
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        number
    }

    fn durable(&self) -> usize {
        let ended = self.ended.lock().unwrap();
        ended
            .values()
            .filter(|ending| **ending == Ending::Durable)
            .count()
    }
}

/// Ends the load also when the test fails.
struct Stop(Arc<Load>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn brokers_killed_and_restarted_under_load_lose_and_repeat_nothing() {
    if !BROKERS.are_ours() {
        return;
    }
    let _alone = alone();
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let numbered = topic(&log, "t", 2);
    let places = [0, 1].map(|partition| TopicPartition {
        topic: numbered,
        partition,
    });
    let load = Arc::new(Load::default());
    let accepted = std::thread::scope(|scope| {
        let writer = scope.spawn(|| load.run(&log, places));
        let stop = Stop(Arc::clone(&load));
        for node in 1..=3 {
            std::thread::sleep(Duration::from_millis(500));
            BROKERS.kill(node);
            let before = load.durable();
            // Two of three go on without the third.
            eventually("appends go on", || load.durable() > before + 20);
            BROKERS.restart(node);
            let before = load.durable();
            eventually("appends go on", || load.durable() > before + 20);
            // Its copies catch up before the next one goes: two must always be there.
            BROKERS.await_in_step();
        }
        drop(stop);
        writer.join().expect("the load runs through")
    });
    eventually("all ended", || log.stats().pending == 0);
    let ended = load.ended.lock().unwrap();
    assert_eq!(ended.len() as u64, accepted);
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for ending in ended.values() {
        *count.entry(format!("{ending:?}")).or_default() += 1;
    }
    println!("{accepted} appends: {count:?}");
    let cold = BROKERS.open(&prefix, "b");
    for (name, at, log) in [("own", places[0], &log), ("cold", places[1], &cold)] {
        let mut times: HashMap<u64, usize> = HashMap::new();
        let values = read_all(log, at, View::Durable);
        for (_, value) in &values {
            let number = String::from_utf8(value.clone()).unwrap().parse().unwrap();
            *times.entry(number).or_default() += 1;
        }
        for (number, ending) in ended.iter() {
            let there = times.get(number).copied().unwrap_or(0);
            let right = match ending {
                Ending::Durable => there == 1,
                Ending::Aborted | Ending::Fenced => there == 0,
                Ending::Unknown => there <= 1,
            };
            assert!(
                right,
                "{name}: append {number} ended {ending:?} and is there {there} times"
            );
        }
    }
}

#[test]
fn without_any_broker_calls_end_in_time_and_all_goes_on_when_they_return() {
    if !BROKERS.are_ours() {
        return;
    }
    let _alone = alone();
    let prefix = prefix();
    let mut settings = BROKERS.settings(&prefix, "a");
    settings.append_timeout = Duration::from_secs(4);
    settings.request_timeout = Duration::from_secs(3);
    settings.transaction_timeout = Duration::from_secs(2);
    settings.pending_bytes_max = 1 << 20;
    let log = KafkaLog::open(settings).unwrap();
    let numbered = topic(&log, "t", 2);
    let at = |partition| TopicPartition {
        topic: numbered,
        partition,
    };
    let mut token = log.claim("o").unwrap();
    assert_eq!(
        append_and_wait(&log, &token, vec![(at(0), batch_of(1, b"1"))]),
        Ending::Durable
    );
    for node in 1..=3 {
        BROKERS.signal(node, "-STOP");
    }
    let began = Instant::now();
    let read = log.bounds(at(1), View::Durable);
    assert!(
        matches!(&read, Err(ReadError::Io(why)) if why.contains("t")),
        "{read:?}"
    );
    let claim = log.claim("p");
    assert!(
        matches!(claim, Err(AppendError::Unreachable(_))),
        "{claim:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let position = log.consumed("p", at(0));
    assert!(
        matches!(position, Err(ReadError::Io(_))),
        "unread is not none: {position:?}"
    );
    // More than the queue takes: callers wait for room, and it comes with the endings.
    let endings = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let value = vec![0; 300 << 10];
    for number in 0..6 {
        let told = Arc::clone(&endings);
        let append = Append {
            purpose: Purpose::Decision,
            batches: vec![(at(0), batch_of(1, &value))],
            consumed: Vec::new(),
            on_end: Some(Box::new(move |ending| {
                told.lock().unwrap().push((number, ending));
            })),
        };
        match log.append(&token, append) {
            Ok(()) => log.flush(),
            Err(AppendError::Fenced { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    eventually("all ended", || log.stats().pending == 0);
    let waited = began.elapsed();
    let endings = endings.lock().unwrap().clone();
    println!("without brokers: {endings:?} after {waited:?}");
    assert!(
        endings
            .iter()
            .all(|(_, end)| matches!(end, Ending::Aborted | Ending::Unknown))
    );
    assert!(waited < Duration::from_secs(40), "{waited:?}");
    for node in 1..=3 {
        BROKERS.signal(node, "-CONT");
    }
    BROKERS.await_in_step();
    eventually("appends go on", || {
        if let Ok(claimed) = log.claim("o") {
            token = claimed;
        }
        let one = vec![(at(0), batch_of(1, b"2"))];
        let ending = onhand_log::testing::append(&log, &token, one, vec![]);
        log.flush();
        ending.is_ok_and(|end| end.recv_timeout(Duration::from_secs(30)) == Ok(Ending::Durable))
    });
    let small = read_all(&log, at(0), View::Durable);
    let small: Vec<_> = small.iter().filter(|(_, value)| value.len() < 10).collect();
    assert_eq!(small.len(), 2, "{small:?}");
}
