//! What holds on a single broker, which a shop tries out first.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics says where"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use common::others::{Other, incarnation, say};
use common::{Brokers, Fresh, eventually, place, prefix};
use onhand_kafka::{Join, KafkaLog, KafkaSettings, OpenError};
use onhand_log::testing::{append, append_and_wait, batch, batch_of, contract, read_all};
use onhand_log::{
    Append, AppendError, BatchBuilder, Consumed, Counterpart, Ending, Header, Log, Offset, Opening,
    Purpose, ReadError, RecordBatch, Standing, TopicPartition, View,
};

static BROKERS: LazyLock<Brokers> = LazyLock::new(|| Brokers::shared(1));

#[test]
fn the_contract_holds_on_one_broker() {
    contract(&Fresh::on(&BROKERS));
}

fn values(log: &KafkaLog, at: TopicPartition) -> Vec<String> {
    let records = read_all(log, at, View::Durable).into_iter();
    records
        .map(|(_, value)| String::from_utf8(value).unwrap())
        .collect()
}

#[test]
fn who_serves_a_log_is_heard_without_joining() {
    let prefix = prefix();
    let living = || KafkaLog::living(&BROKERS.settings(&prefix, "listener")).unwrap();
    assert!(living().is_empty(), "there is no log");
    let join = || Join {
        address: "127.0.0.1:1".into(),
        partitions: 4,
        spread: vec!["task".into()],
        warms_up: false,
    };
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    assert!(living().is_empty(), "who opened it serves nothing yet");
    let (in_a, in_b) = (a.join(join()).unwrap(), b.join(join()).unwrap());
    assert_eq!(living(), ["a", "b"]);
    in_a.leave().unwrap();
    assert_eq!(living(), ["b"]);
    in_b.leave().unwrap();
    assert!(
        living().is_empty(),
        "its heartbeats of before count for nothing"
    );
    let names: Vec<_> = a
        .topics()
        .into_iter()
        .map(|topic| topic.spec.name)
        .collect();
    assert!(
        names.is_empty(),
        "what the log keeps for itself is no topic: {names:?}"
    );
}

#[test]
fn a_member_of_a_log_that_is_sealed_ends_and_comes_back_once_it_is_unsealed() {
    let prefix = prefix();
    let open = |instance: &str, opening| {
        let settings = BROKERS.settings(&prefix, instance);
        KafkaLog::open(KafkaSettings {
            opening,
            ..settings
        })
    };
    let join = || Join {
        address: "127.0.0.1:1".into(),
        partitions: 4,
        spread: vec!["task".into()],
        warms_up: false,
    };
    let a = BROKERS.open(&prefix, "a");
    let in_a = a.join(join()).unwrap();
    eventually("all is its own", || in_a.membership().is_mine(3));
    // Open, and no member yet, when the log is sealed.
    let late = BROKERS.open(&prefix, "late");
    let copying = open("copying", Opening::AsItIs).unwrap();
    let sealed = Standing::Sealed(Counterpart::new(7, "there"));
    copying.set_standing(&sealed).unwrap();
    assert!(copying.claim("task/0").is_ok(), "who copies it goes on");
    eventually("it has ended", || in_a.membership().ended.is_some());
    eventually("it stops", || a.claim("task/1").is_err());
    let joined = late.join(join());
    assert!(!joined.is_ok_and(|cluster| cluster.membership().ended.is_none()));
    assert!(late.claim("task/1").is_err());
    let refused = open("b", Opening::Serve).unwrap_err().to_string();
    assert!(refused.contains("it is sealed"), "{refused}");

    open("copying", Opening::Unseal).unwrap().close().unwrap();
    let b = open("b", Opening::Serve).unwrap();
    let in_b = b.join(join()).unwrap();
    eventually("it is served again", || in_b.membership().is_mine(3));
    assert!(b.claim("task/3").is_ok());
}

#[test]
fn a_claim_by_another_instance_fences_that_name_and_leaves_the_others() {
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, "t");
    assert_eq!(
        place(&b, "t"),
        at,
        "topics have one number for all instances"
    );
    let (mine, other) = (a.claim("task/0").unwrap(), a.claim("task/1").unwrap());
    assert_eq!(
        append_and_wait(&a, &mine, vec![(at, batch_of(1, b"a1"))]),
        Ending::Durable
    );

    let theirs = b.claim("task/0").unwrap();
    assert!(theirs.generation > mine.generation);
    assert_eq!(values(&b, at), ["a1"]);
    // Neither knows of the other but through the cluster.
    assert_eq!(
        append_and_wait(&a, &mine, vec![(at, batch_of(1, b"stale"))]),
        Ending::Fenced
    );
    let refused = append(&a, &mine, vec![(at, batch_of(1, b"stale"))], vec![]);
    assert!(matches!(refused, Err(AppendError::Fenced { .. })));
    assert_eq!(
        append_and_wait(&a, &other, vec![(at, batch_of(1, b"a2"))]),
        Ending::Durable
    );
    assert_eq!(
        append_and_wait(&b, &theirs, vec![(at, batch_of(1, b"b1"))]),
        Ending::Durable
    );
    for log in [&a, &b] {
        eventually("all is seen", || values(log, at).len() == 3);
        assert_eq!(values(log, at), ["a1", "a2", "b1"]);
    }
    // And back again, several times: each is told apart.
    for round in 0..3 {
        let (from, to) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        let token = to.claim("task/0").unwrap();
        assert_eq!(
            append_and_wait(to, &token, vec![(at, batch_of(1, b"x"))]),
            Ending::Durable
        );
        let stale = onhand_log::Token {
            generation: token.generation - 1,
            ..token
        };
        match append(from, &stale, vec![(at, batch_of(1, b"stale"))], vec![]) {
            Err(AppendError::Fenced { .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(ending) => {
                from.flush();
                assert_eq!(
                    ending.recv_timeout(Duration::from_secs(30)),
                    Ok(Ending::Fenced)
                );
            }
        }
    }
    assert_eq!(values(&b, at), ["a1", "a2", "b1", "x", "x", "x"]);
}

#[test]
fn an_open_transaction_of_a_fenced_instance_is_never_seen() {
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, "t");
    assert_eq!(place(&b, "t"), at);
    let mine = a.claim("o").unwrap();
    assert_eq!(
        append_and_wait(&a, &mine, vec![(at, batch_of(1, b"a1"))]),
        Ending::Durable
    );
    // The instance as it stands between its records and its commit.
    let run = incarnation(&BROKERS.bootstrap, &prefix, "a");
    let paused = Other::take(&BROKERS.bootstrap, &format!("{prefix}onhand.{run}-0"));
    paused.begin(&format!("{prefix}t"), 0, &[b"open"]);
    let began = Instant::now();
    let theirs = b.claim("o").unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "the claim ends what is open"
    );
    assert_eq!(values(&b, at), ["a1"]);
    let error = paused.commit().expect_err("it was fenced");
    assert!(error.to_lowercase().contains("fenced"), "{error}");
    assert_eq!(
        append_and_wait(&b, &theirs, vec![(at, batch_of(1, b"b1"))]),
        Ending::Durable
    );
    assert_eq!(values(&b, at), ["a1", "b1"]);
    assert_eq!(
        append_and_wait(&a, &mine, vec![(at, batch_of(1, b"a2"))]),
        Ending::Fenced
    );
}

#[test]
fn a_name_claimed_under_load_loses_and_repeats_nothing() {
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, "t");
    assert_eq!(place(&b, "t"), at);
    for round in 0..3 {
        let mine = a.claim("o").unwrap();
        let endings = Arc::new(Mutex::new(Vec::new()));
        let (seen_at_claim, theirs) = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    let value = format!("{round}-{number}");
                    let told = Arc::clone(&endings);
                    let name = value.clone();
                    let append = Append {
                        purpose: Purpose::Decision,
                        batches: vec![(at, batch_of(1, value.as_bytes()))],
                        consumed: vec![Consumed { at, next: number }],
                        on_end: Some(Box::new(move |end| told.lock().unwrap().push((name, end)))),
                    };
                    if a.append(&mine, append).is_err() {
                        break;
                    }
                    a.flush();
                    if number % 5 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            eventually("the load runs", || {
                let endings = endings.lock().unwrap();
                let durable = endings.iter().filter(|(_, end)| *end == Ending::Durable);
                durable.count() > 30
            });
            std::thread::sleep(Duration::from_millis(7 * round));
            let theirs = b.claim("o").unwrap();
            (values(&b, at), theirs)
        });
        eventually("all ended", || a.stats().pending == 0);
        assert_eq!(
            append_and_wait(&b, &theirs, vec![(at, batch_of(1, b"b"))]),
            Ending::Durable
        );
        let after = values(&b, at);
        // What the new holder saw when its claim returned is all that the old one ever wrote.
        assert_eq!(after[..after.len() - 1], seen_at_claim, "round {round}");
        let endings = endings.lock().unwrap();
        let durable: Vec<_> = endings
            .iter()
            .filter(|(_, end)| *end == Ending::Durable)
            .collect();
        let written = after
            .iter()
            .filter(|value| value.starts_with(&format!("{round}-")));
        let written: Vec<_> = written.collect();
        assert_eq!(
            written,
            durable.iter().map(|(value, _)| value).collect::<Vec<_>>()
        );
        assert!(
            endings
                .iter()
                .all(|(_, end)| matches!(end, Ending::Durable | Ending::Fenced))
        );
        assert!(durable.len() > 20, "{} were durable", durable.len());
        let last = Offset::try_from(durable.len()).unwrap() - 1;
        assert_eq!(
            b.consumed("o", at),
            Ok(Some(last)),
            "the position is that of the last one"
        );
    }
}

/// Two instances write the same partition at once: what each has in memory, what each reads while it
/// goes on, and what the brokers hold is one and the same.
#[test]
fn instances_that_write_one_partition_see_one_order() {
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, "t");
    assert_eq!(place(&b, "t"), at);
    let write = |log: &KafkaLog, name: &str| {
        let token = log.claim(name).unwrap();
        for number in 0..150_u32 {
            let pair: Vec<_> = (0..=number % 3)
                .map(|part| (at, batch_of(1, format!("{name}{number}.{part}").as_bytes())))
                .collect();
            let ending = append(log, &token, pair, vec![]).unwrap();
            log.flush();
            if number % 4 == 0 {
                assert_eq!(
                    ending.recv_timeout(Duration::from_secs(30)),
                    Ok(Ending::Durable)
                );
            }
            if number % 32 == 0 {
                std::thread::sleep(Duration::from_millis(30));
            }
        }
    };
    let follow = |log: &KafkaLog| {
        let mut seen = Vec::new();
        let mut next = log.bounds(at, View::Latest).unwrap().start;
        let until = Instant::now() + Duration::from_secs(60);
        while seen.len() < 600 && Instant::now() < until {
            let fetch = log.read(at, next, 1 << 20, View::Latest).unwrap();
            for record in fetch.batches.iter().flat_map(|batch| batch.records()) {
                if record.offset >= next {
                    seen.push((record.offset, record.value.unwrap().to_vec()));
                }
            }
            if fetch.next == next {
                std::thread::sleep(Duration::from_millis(1));
            }
            next = fetch.next;
        }
        seen
    };
    let (by_a, by_b) = std::thread::scope(|scope| {
        let followers = (scope.spawn(|| follow(&a)), scope.spawn(|| follow(&b)));
        scope.spawn(|| write(&a, "a"));
        scope.spawn(|| write(&b, "b"));
        (followers.0.join().unwrap(), followers.1.join().unwrap())
    });
    let cold = read_all(&BROKERS.open(&prefix, "c"), at, View::Durable);
    assert_eq!(cold.len(), 600);
    assert_eq!(
        cold.iter().map(|(_, v)| v).collect::<BTreeSet<_>>().len(),
        600
    );
    for (name, seen) in [("a", &by_a), ("b", &by_b)] {
        assert_eq!(*seen, cold, "as {name} followed it");
    }
    for log in [&a, &b] {
        assert_eq!(read_all(log, at, View::Durable), cold);
    }
}

#[test]
fn what_others_abort_is_not_seen_and_what_they_commit_is() {
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let at = place(&log, "t");
    let token = log.claim("o").unwrap();
    let own = |value: &[u8]| append_and_wait(&log, &token, vec![(at, batch_of(1, value))]);
    assert_eq!(own(b"1"), Ending::Durable);
    assert_eq!(values(&log, at), ["1"]);
    let other = Other::take(&BROKERS.bootstrap, &format!("{prefix}other"));
    let topic = format!("{prefix}t");
    other.begin(&topic, 0, &[b"no", b"no"]);
    assert_eq!(values(&log, at), ["1"], "open");
    other.abort();
    assert_eq!(own(b"2"), Ending::Durable);
    assert_eq!(values(&log, at), ["1", "2"], "aborted");
    other.begin(&topic, 0, &[b"yes", b"yes"]);
    other.commit().unwrap();
    eventually("it is seen", || values(&log, at).len() == 4);
    assert_eq!(values(&log, at), ["1", "2", "yes", "yes"]);
    other.begin(&topic, 0, &[b"no"]);
    other.abort();
    // Only aborted records lie at the end: a reader gets past them.
    let cold = BROKERS.open(&prefix, "b");
    assert_eq!(values(&cold, at), ["1", "2", "yes", "yes"]);
    let bounds = cold.bounds(at, View::Durable).unwrap();
    let mut next = bounds.start;
    while let fetch = cold.read(at, next, 1, View::Latest).unwrap()
        && fetch.next != next
    {
        next = fetch.next;
    }
    assert_eq!(next, bounds.end);
    assert_eq!(cold.offset_at(at, log.now() + 60_000), Ok(None));
}

/// Who reads when told of something is told of what others write, however long nothing came.
#[test]
fn a_partition_that_was_quiet_for_long_is_heard_of_again() {
    let prefix = prefix();
    let mut settings = BROKERS.settings(&prefix, "a");
    settings.idle = Duration::from_secs(1);
    let log = KafkaLog::open(settings).unwrap();
    let at = place(&log, "t");
    let (sender, told) = channel();
    let sender = Mutex::new(sender);
    log.listen(Box::new(move |_| {
        let _ = sender.lock().unwrap().send(());
    }));
    let read = || log.read(at, 0, 1 << 20, View::Durable).unwrap().batches;
    assert!(read().is_empty());
    // It is let go within this time, and whoever is told then reads.
    let quiet = Instant::now() + Duration::from_secs(3);
    while let Some(left) = quiet.checked_duration_since(Instant::now()) {
        if told.recv_timeout(left).is_ok() {
            assert!(read().is_empty());
        }
    }
    let other = BROKERS.open(&prefix, "b");
    let token = other.claim("o").unwrap();
    let one = vec![(at, batch_of(1, b"1"))];
    assert_eq!(append_and_wait(&other, &token, one), Ending::Durable);
    loop {
        let heard = told.recv_timeout(Duration::from_secs(20));
        heard.expect("it is told");
        if !read().is_empty() {
            break;
        }
    }
}

#[test]
fn an_open_transaction_of_others_holds_nobody_up() {
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let at = place(&log, "t");
    let token = log.claim("o").unwrap();
    let other = Other::take(&BROKERS.bootstrap, &format!("{prefix}other"));
    other.begin(&format!("{prefix}t"), 0, &[b"open"]);
    let began = Instant::now();
    assert_eq!(
        append_and_wait(&log, &token, vec![(at, batch_of(1, b"own"))]),
        Ending::Durable
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "its ending does not wait"
    );
    // Kafka shows nothing behind an open transaction. A read gives up soon and says what is there.
    assert_eq!(values(&log, at), Vec::<String>::new());
    assert!(began.elapsed() < Duration::from_secs(5));
    // What was said to be durable lies below the end that is told, though nobody can read it yet.
    let told = log.told_end(at).unwrap();
    let end = || log.bounds(at, View::Durable).unwrap().end;
    assert!(told >= 2, "{told}");
    assert!(end() < told, "{} and {told}", end());
    other.commit().unwrap();
    eventually("both are seen", || values(&log, at) == ["open", "own"]);
    eventually("all that was told is decided", || end() >= told);
}

#[test]
fn a_second_process_of_one_name_takes_the_place_of_the_first() {
    let prefix = prefix();
    let first = BROKERS.open(&prefix, "a");
    let at = place(&first, "t");
    let token = first.claim("o").unwrap();
    assert_eq!(
        append_and_wait(&first, &token, vec![(at, batch_of(1, b"1"))]),
        Ending::Durable
    );
    let second = BROKERS.open(&prefix, "a");
    assert_eq!(
        append_and_wait(&first, &token, vec![(at, batch_of(1, b"stale"))]),
        Ending::Fenced
    );
    let error = first.claim("o").expect_err("it stopped");
    assert!(error.to_string().contains("same instance name"), "{error}");
    let token = second.claim("o").unwrap();
    assert_eq!(
        append_and_wait(&second, &token, vec![(at, batch_of(1, b"2"))]),
        Ending::Durable
    );
    assert_eq!(values(&second, at), ["1", "2"]);
}

#[test]
fn a_process_that_vanished_is_opened_again_with_all_that_was_durable() {
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let at = place(&log, "t");
    let token = log.claim("task/0").unwrap();
    let consumed = vec![Consumed { at, next: 17 }];
    let ending = append(&log, &token, vec![(at, batch_of(1, b"1"))], consumed).unwrap();
    log.flush();
    assert_eq!(
        ending.recv_timeout(Duration::from_secs(30)),
        Ok(Ending::Durable)
    );
    let epoch = log.epoch();
    // Never closed, never dropped: as after kill -9.
    std::mem::forget(log);
    let log = BROKERS.open(&prefix, "a");
    assert_eq!(log.epoch(), epoch);
    assert_eq!(
        log.consumed("task/0", at),
        Ok(Some(17)),
        "without a claim too"
    );
    assert!(log.claim("task/0").unwrap().generation > token.generation);
    assert_eq!(log.consumed("task/0", at), Ok(Some(17)));
    assert_eq!(values(&log, at), ["1"]);
}

#[test]
fn topics_of_append_time_bear_the_brokers_time_in_memory_and_on_the_broker() {
    let prefix = prefix();
    let mut settings = BROKERS.settings(&prefix, "a");
    settings.append_time_topics.insert("t".into());
    let log = KafkaLog::open(settings.clone()).unwrap();
    let at = place(&log, "t");
    let token = log.claim("o").unwrap();
    let times = |log: &KafkaLog| -> Vec<_> {
        let start = log.bounds(at, View::Durable).unwrap().start;
        let fetch = log.read(at, start, 1 << 20, View::Durable).unwrap();
        let records = fetch.batches.iter().flat_map(|batch| batch.records());
        records
            .map(|record| (record.offset, record.timestamp))
            .collect()
    };
    assert_eq!(times(&log), [], "from here on it is followed");
    let before = log.now() - 1_000;
    let two = batch(&[(5, None, b"a"), (7, None, b"b")]);
    assert_eq!(
        append_and_wait(&log, &token, vec![(at, two)]),
        Ending::Durable
    );
    let own = times(&log);
    assert_eq!(own.len(), 2);
    assert!(
        own.iter()
            .all(|(_, time)| (before..before + 60_000).contains(time)),
        "{own:?}"
    );
    settings.instance = "b".into();
    let other = KafkaLog::open(settings.clone()).unwrap();
    assert_eq!(times(&other), own);
    // Opened without that wish, the difference is named.
    settings.append_time_topics.clear();
    let error = KafkaLog::open(settings)
        .expect_err("it differs")
        .to_string();
    assert!(
        error.contains("message.timestamp.type=CreateTime"),
        "{error}"
    );
}

#[test]
fn without_a_broker_opening_says_so_in_time() {
    let mut settings = KafkaSettings::new("127.0.0.1:1", "a");
    settings.request_timeout = Duration::from_secs(2);
    let began = Instant::now();
    let error = KafkaLog::open(settings).expect_err("nobody is there");
    assert!(matches!(&error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("check that"));
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[test]
fn more_copies_than_brokers_are_refused_unless_allowed() {
    if BROKERS.nodes > 1 {
        return;
    }
    let mut settings = BROKERS.settings(&prefix(), "a");
    (settings.replication, settings.insync_min) = (3, 2);
    let error = KafkaLog::open(settings.clone()).expect_err("one broker has one copy");
    assert!(
        matches!(
            &error,
            OpenError::TooFewBrokers {
                brokers: 1,
                replication: 3
            }
        ),
        "{error}"
    );
    settings.allow_unsafe_topics = true;
    let log = KafkaLog::open(settings).unwrap();
    let at = place(&log, "t");
    let token = log.claim("o").unwrap();
    assert_eq!(
        append_and_wait(&log, &token, vec![(at, batch_of(1, b"1"))]),
        Ending::Durable
    );
}

#[test]
fn the_largest_append_goes_and_a_larger_one_is_refused_by_its_size() {
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let at = place(&log, "t");
    let token = log.claim("o").unwrap();
    let mut seed = 88_172_645_463_325_252_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let mut all = Vec::with_capacity(bytes + 8);
        while all.len() < bytes {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            all.extend_from_slice(&seed.to_le_bytes());
        }
        all.truncate(bytes);
        all
    };
    let limit = 16 << 20;
    let largest = noise(limit - 100);
    let one = batch_of(1, &largest);
    assert!(one.bytes().len() <= limit);
    assert_eq!(
        append_and_wait(&log, &token, vec![(at, one)]),
        Ending::Durable
    );
    let larger = batch_of(1, &noise(limit));
    let bytes = larger.bytes().len();
    let refused = append(&log, &token, vec![(at, larger)], vec![]).map(|_| ());
    assert_eq!(refused, Err(AppendError::TooLarge { bytes, limit }));
    let records = read_all(&BROKERS.open(&prefix, "b"), at, View::Durable);
    assert!(matches!(&records[..], [(_, value)] if *value == largest));
}

#[test]
fn a_deleted_topic_stops_the_log_and_is_named_by_it_by_reads_and_the_next_open() {
    if !BROKERS.are_ours() {
        return;
    }
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let (gone, stays) = (place(&log, "gone"), place(&log, "stays"));
    let token = log.claim("o").unwrap();
    for at in [gone, stays] {
        assert_eq!(
            append_and_wait(&log, &token, vec![(at, batch_of(1, b"1"))]),
            Ending::Durable
        );
    }
    let name = format!("{prefix}gone");
    let class = "org.apache.kafka.tools.TopicCommand";
    BROKERS.kafka(class, &["--delete", "--topic", &name]);
    let both = vec![(stays, batch_of(1, b"2")), (gone, batch_of(1, b"2"))];
    assert_eq!(append_and_wait(&log, &token, both), Ending::Aborted);
    assert_eq!(values(&log, stays), ["1"], "the append was one");
    let mut why = String::new();
    eventually("the log stops", || match log.claim("p") {
        Err(AppendError::Stopped(told)) => {
            why = told;
            true
        }
        _ => false,
    });
    assert!(
        why.contains(&name) && why.contains("kafka-topics.sh"),
        "{why}"
    );
    let fresh = KafkaLog::open(BROKERS.settings(&prefix, "b"));
    let error = fresh.expect_err("a topic is gone").to_string();
    assert!(
        error.contains(&name) && error.contains("kafka-topics.sh"),
        "{error}"
    );
    assert!(!error.contains("stays"), "{error}");
    let read = log.bounds(gone, View::Durable);
    assert!(
        matches!(&read, Err(ReadError::Io(why)) if why.contains(&name) && why.contains("deleted")),
        "{read:?}"
    );
}

/// Made anew and empty it would pass for what it held: nobody owns anything, everybody is at the start.
#[test]
fn a_deleted_topic_of_the_logs_own_is_not_made_anew() {
    if !BROKERS.are_ours() {
        return;
    }
    for own in ["onhand.positions", "onhand.cluster", "onhand.log"] {
        let prefix = prefix();
        let log = BROKERS.open(&prefix, "a");
        let at = place(&log, "t");
        let token = log.claim("o").unwrap();
        let one = vec![(at, batch_of(1, b"1"))];
        let ending = append(&log, &token, one, vec![Consumed { at, next: 1 }]).unwrap();
        log.flush();
        assert_eq!(ending.recv().unwrap(), Ending::Durable);
        let name = format!("{prefix}{own}");
        let class = "org.apache.kafka.tools.TopicCommand";
        BROKERS.kafka(class, &["--delete", "--topic", &name]);
        let fresh = KafkaLog::open(BROKERS.settings(&prefix, "b"));
        let error = fresh.expect_err("a topic is gone").to_string();
        assert!(
            error.contains(&name) && error.contains("kafka-topics.sh"),
            "{error}"
        );
        // Also where nothing is asked of it.
        eventually("the log stops", || {
            matches!(log.claim("p"), Err(AppendError::Stopped(_)))
        });
    }
}

#[test]
fn a_topic_that_somebody_changed_is_named_with_the_command_that_mends_it() {
    if !BROKERS.are_ours() {
        return;
    }
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    place(&log, "t");
    log.close().unwrap();
    drop(log);
    let name = format!("{prefix}t");
    let alter = |change: &str| {
        let class = "kafka.admin.ConfigCommand";
        let topic = ["--alter", "--entity-type", "topics", "--entity-name", &name];
        BROKERS.kafka(class, &[&topic[..], &["--add-config", change]].concat());
    };
    alter("cleanup.policy=compact,retention.ms=1000");
    let error = KafkaLog::open(BROKERS.settings(&prefix, "a")).expect_err("it is unsafe");
    assert!(
        matches!(&error, OpenError::UnsafeTopics(found) if found.len() == 2),
        "{error}"
    );
    let error = error.to_string();
    for part in [
        "kafka-configs.sh --bootstrap-server 127.0.0.1:",
        &format!("--entity-name {name} --add-config cleanup.policy=delete"),
        &format!("--entity-name {name} --add-config retention.ms=-1"),
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let mut settings = BROKERS.settings(&prefix, "a");
    settings.allow_unsafe_topics = true;
    drop(KafkaLog::open(settings).unwrap());
    // As the message says.
    alter("cleanup.policy=delete");
    alter("retention.ms=-1");
    BROKERS.open(&prefix, "a");
}

/// Whatever a stranger writes into a topic that only instances write is left out by all readers, those that
/// have the rest in memory and those that ask the brokers; what instances wrote is there, headers and all.
#[test]
fn what_strangers_write_into_own_topics_is_left_out() {
    let prefix = prefix();
    let open = |instance: &str| {
        let mut settings = BROKERS.settings(&prefix, instance);
        settings.own_topics = ["own".to_owned()].into();
        KafkaLog::open(settings).unwrap()
    };
    let a = open("a");
    let (own, anyones) = (place(&a, "own"), place(&a, "anyones"));
    let stranger = |topic: &str, value: &[u8]| {
        say(&BROKERS.bootstrap, &format!("{prefix}{topic}"), b"k", value);
    };
    let token = a.claim("o").unwrap();
    let write = |value: &[u8]| {
        let mut batch = BatchBuilder::new();
        let sent = Header {
            key: "onhand",
            value: Some(b"sent"),
        };
        batch.push(1, None, Some(value), &[sent]);
        let batch = batch.finish().unwrap();
        let batches = vec![(own, batch.clone()), (anyones, batch)];
        assert_eq!(append_and_wait(&a, &token, batches), Ending::Durable);
    };
    stranger("own", b"first of all");
    write(b"1");
    // Followed from here on.
    assert_eq!(values(&a, own), ["1"]);
    stranger("own", b"between");
    stranger("own", b"");
    write(b"2");
    let other = Other::take(&BROKERS.bootstrap, "a stranger's");
    other.begin(
        &format!("{prefix}own"),
        0,
        &[b"in a transaction", b"of two"],
    );
    other.commit().unwrap();
    stranger("own", b"last of all");
    stranger("onhand.positions", b"garbage");
    stranger("anyones", b"welcome");
    eventually("all is seen", || values(&a, anyones).len() == 3);
    assert_eq!(values(&a, own), ["1", "2"]);
    eventually("all is told of", || a.stats().strangers == 6);

    // Nothing in memory; and positions are read.
    let b = open("b");
    let of_b = (place(&b, "own"), place(&b, "anyones"));
    assert_eq!(of_b, (own, anyones));
    assert_eq!(values(&b, own), ["1", "2"]);
    assert_eq!(values(&b, anyones), ["1", "2", "welcome"]);
    for at in [own, anyones] {
        let fetch = b.read(at, 0, 1 << 20, View::Durable).unwrap();
        let mine = fetch.batches.iter().flat_map(RecordBatch::records);
        for record in mine.filter(|record| record.value != Some(b"welcome")) {
            let headers: Vec<_> = record.headers.iter().map(|h| (h.key, h.value)).collect();
            assert_eq!(headers, [("onhand", Some(&b"sent"[..]))]);
        }
    }
    let mark = b.claim("o").unwrap();
    let end = b.bounds(own, View::Latest).unwrap().end;
    assert!(end > 7, "what is left out has its offset: {end}");
    assert_eq!(b.read(own, end - 1, 1, View::Latest).unwrap().next, end);
    assert_eq!(
        append_and_wait(&b, &mark, vec![(own, batch_of(1, b"3"))]),
        Ending::Durable
    );
    assert_eq!(values(&b, own), ["1", "2", "3"]);
    eventually("the garbage among the positions too", || {
        b.stats().strangers == 7
    });
    b.close().unwrap();

    // A log that was begun without keeps to that, whoever opens it.
    let plain = common::prefix();
    let topic_of = |log: &KafkaLog| place(log, "own");
    let before = BROKERS.open(&plain, "a");
    let at = topic_of(&before);
    say(&BROKERS.bootstrap, &format!("{plain}own"), b"k", b"welcome");
    before.close().unwrap();
    let mut settings = BROKERS.settings(&plain, "a");
    settings.own_topics = ["own".to_owned()].into();
    let after = KafkaLog::open(settings).unwrap();
    assert_eq!(values(&after, at), ["welcome"]);
}
