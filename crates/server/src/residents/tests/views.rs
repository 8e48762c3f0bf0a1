//! The JSON topics, written through every ending, are those written through none.

use onhand_flows::{CommandPack, NodeConfig, key_of};
use onhand_ledger::Command;
use onhand_log::memory::Fault;
use onhand_log::{Append, Purpose};
use onhand_streams::{Delivery, SubmitError, Ticket};

use super::*;
use crate::decisions::{DecisionError, DecisionLog};
use crate::residents::views::said;
use crate::wire::change::changes;
use crate::wire::command::{Given, parse};
use crate::wire::outcome::{self, Detail, Origin};

const PARTITIONS: u16 = 3;
const ALL: [&str; 4] = [
    topics::CHANGES,
    topics::OUTCOMES,
    topics::LEVELS,
    topics::RESERVATIONS,
];

struct Nobody;

impl Ticket for Nobody {
    fn deliver(&self, _: Delivery) {}
    fn refused(&self, error: &SubmitError) {
        panic!("{error}");
    }
    fn failed(&self, why: &str) {
        panic!("{why}");
    }
}

/// A log with the decisions on many commands, those on one SKU and repeats among them.
fn decided() -> MemoryLog {
    let (memory, log) = memory(MemoryLog::new());
    let config = NodeConfig {
        partitions: Some(PARTITIONS),
        ..NodeConfig::default()
    };
    let node = onhand_flows::start(Arc::clone(&log), &config).unwrap();
    let ticket: Arc<dyn Ticket> = Arc::new(Nobody);
    let submit = |command: &Command<'_>| {
        let partition = partition_of(key_of(command).as_bytes(), PARTITIONS);
        let mut pack = CommandPack::new();
        pack.push(command);
        node.handle
            .submit(vec![(partition, pack.finish())], &ticket)
            .unwrap();
    };
    for n in 0..400 {
        let id = n - n % 5;
        let sku = id % 7;
        let json = match n % 5 {
            // Each fifth comes twice more.
            0..=2 => format!(
                r#"{{"id":"{id}","source":"a/b","type":"receive","sku":"S/{sku}","location":"m","quantity":3}}"#
            ),
            3 => format!(
                r#"{{"id":"{n}","source":"w","type":"reserve","lines":[{{"sku":"S/{sku}","quantity":2}},{{"sku":"S/{}","quantity":1}}]}}"#,
                (sku + 1) % 7
            ),
            _ => format!(
                r#"{{"id":"{n}","source":"w","type":"release","reservation":"w/{}"}}"#,
                n - 1
            ),
        };
        submit(&parse(&json, &Given::default()).unwrap());
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    node.stop().unwrap();
    memory.reopened()
}

/// Publishes these views of all that is decided there.
fn publish(log: &Arc<dyn Log>, views: ViewChoice, pack_views: bool) {
    let flusher = Flusher::on(log);
    let chosen = Chosen {
        inbox: false,
        views,
        pack_views,
        views_pace: Duration::from_millis(5),
        command_bytes: 512 << 10,
    };
    let residents = started(log, PARTITIONS, chosen);
    eventually("all is published", || {
        has_read(log.as_ref(), "views", topics::DECISIONS, PARTITIONS)
    });
    residents.stop();
    drop(flusher);
}

fn dump(log: &dyn Log) -> Vec<Vec<(u16, Option<Vec<u8>>, Option<Vec<u8>>)>> {
    let records = |name| {
        let seen = all(log, name).into_iter();
        seen.map(|seen| (seen.partition, seen.key, seen.value))
            .collect()
    };
    ALL.map(records).to_vec()
}

/// The newest of each key, and that an append of them holds each once: offsets of a batch are dense, so a
/// key that comes twice came in two appends.
fn newest(
    records: &[(u16, Option<Vec<u8>>, Option<Vec<u8>>)],
) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    let pairs = records.iter();
    pairs
        .map(|(_, key, value)| (key.clone().unwrap(), value.clone().unwrap()))
        .collect()
}

#[test]
fn views_written_through_every_ending_are_those_written_through_none() {
    let decided = decided();
    let (_, plain) = memory(decided.reopened());
    publish(&plain, ViewChoice::ALL, false);
    let expected = dump(plain.as_ref());
    assert!(expected.iter().all(|records| !records.is_empty()));

    for seed in 1..=8 {
        let mut dice = Dice(seed);
        let (mut memory_log, mut log) = memory(decided.reopened());
        for turn in 0..4 {
            let flusher = Flusher::on(&log);
            let residents = start(&log, PARTITIONS, false, ViewChoice::ALL);
            memory_log.script((0..6).map(|_| match dice.below(4) {
                0 => Some(Fault::Aborted),
                1 => Some(Fault::UnknownWritten),
                2 => Some(Fault::UnknownNotWritten),
                _ => None,
            }));
            if turn == 3 {
                eventually("all is published", || {
                    has_read(log.as_ref(), "views", topics::DECISIONS, PARTITIONS)
                });
                residents.stop();
                drop(flusher);
                break;
            }
            std::thread::sleep(Duration::from_millis(dice.below(40)));
            let reopened = memory_log.reopened();
            memory_log.poison();
            residents.stop();
            drop(flusher);
            (memory_log, log) = memory(reopened);
        }
        let found = dump(log.as_ref());
        assert!(found[0] == expected[0], "seed {seed}: changes differ");
        assert!(found[1] == expected[1], "seed {seed}: outcomes differ");
        assert_eq!(newest(&found[2]), newest(&expected[2]), "seed {seed}");
        assert_eq!(newest(&found[3]), newest(&expected[3]), "seed {seed}");
    }
}

#[test]
fn views_that_were_not_chosen_are_not_written() {
    let decided = decided();
    let written = |chosen: ViewChoice| {
        let (_, log) = memory(decided.reopened());
        publish(&log, chosen, false);
        log
    };
    let whole = written(ViewChoice::ALL);
    for (chosen, wanted) in ["changes", "outcomes", "levels", "reservations"]
        .iter()
        .zip(ALL)
    {
        let log = written(chosen.parse().unwrap());
        let there = log.topics();
        let there = there.iter().map(|topic| topic.spec.name.as_str());
        assert_eq!(
            there.filter(|name| ALL.contains(name)).collect::<Vec<_>>(),
            [wanted]
        );
        let pairs = |log: &dyn Log| -> Vec<_> {
            let seen = all(log, wanted).into_iter();
            seen.map(|seen| (seen.partition, seen.key, seen.value))
                .collect()
        };
        if *chosen == "changes" || *chosen == "outcomes" {
            assert!(
                pairs(log.as_ref()) == pairs(whole.as_ref()),
                "{chosen} differ"
            );
        } else {
            assert_eq!(
                newest(&pairs(log.as_ref())),
                newest(&pairs(whole.as_ref())),
                "{chosen}"
            );
        }
    }
    assert_eq!("on".parse(), Ok(ViewChoice::ALL));
    assert_eq!("off".parse(), Ok(ViewChoice::NONE));
    assert!(
        "levels,stock"
            .parse::<ViewChoice>()
            .unwrap_err()
            .contains("\"stock\" is no view")
    );
}

#[test]
fn packed_views_say_the_same_in_fewer_records() {
    let decided = decided();
    let written = |packs| {
        let (_, log) = memory(decided.reopened());
        publish(&log, ViewChoice::ALL, packs);
        dump(log.as_ref())
    };
    let (single, packed) = (written(false), written(true));
    for view in 0..2 {
        let values = packed[view].iter().map(|(.., value)| value.as_ref());
        let longest = values.map(|value| value.unwrap().len()).max().unwrap();
        assert!(longest <= 32 << 10, "{longest} bytes");
        assert!(packed[view].iter().all(|(_, key, _)| key.is_none()));
        assert!(
            packed[view].len() * 3 < single[view].len(),
            "{} of {} records",
            packed[view].len(),
            single[view].len()
        );
        for partition in 0..PARTITIONS {
            let lines = |records: &[(u16, Option<Vec<u8>>, Option<Vec<u8>>)]| {
                let mut lines: Vec<Vec<u8>> = Vec::new();
                let here = records.iter().filter(|(at, ..)| *at == partition);
                for value in here.filter_map(|(.., value)| value.as_deref()) {
                    lines.extend(value.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
                }
                lines
            };
            let (wanted, found) = (lines(&single[view]), lines(&packed[view]));
            assert!(wanted == found, "{} of partition {partition}", ALL[view]);
        }
    }
    for view in 2..4 {
        assert_eq!(newest(&packed[view]), newest(&single[view]));
    }
}

#[test]
fn changes_and_outcomes_are_rendered_as_feeds_and_http_render_them() {
    let (_, log) = memory(decided());
    publish(&log, ViewChoice::ALL, false);
    let mut shown = all(log.as_ref(), topics::CHANGES).into_iter();
    let mut told = all(log.as_ref(), topics::OUTCOMES).into_iter();
    let mut repeats = 0;
    for record in all(log.as_ref(), topics::DECISIONS) {
        let origin = Origin {
            epoch: log.epoch(),
            partition: record.partition,
        };
        for decision in pack::decisions(record.value.as_deref().unwrap()).unwrap() {
            let decision = decision.unwrap();
            for change in changes(&decision, origin) {
                let mut wanted = Vec::new();
                change.write(&mut wanted, None);
                let wanted: serde_json::Value = serde_json::from_slice(&wanted).unwrap();
                let mut found = shown.next().unwrap().json();
                found.as_object_mut().unwrap().remove("position").unwrap();
                assert_eq!(found, wanted);
            }
            for said in said(&decision, origin) {
                let found = told.next().unwrap();
                if said.first().is_some() {
                    repeats += 1;
                    assert!(found.json()["first"]["status"].is_string(), "{found:?}");
                    continue;
                }
                let mut wanted = Vec::new();
                outcome::write(&mut wanted, &said, None, None, Detail::WithoutLevels);
                assert_eq!(found.value.unwrap(), wanted);
            }
        }
    }
    assert_eq!((shown.next(), told.next()), (None, None));
    assert!(repeats > 100, "{repeats}");
}

/// An owner elsewhere tells of a duplicate before its first decision can be read here.
#[test]
fn what_a_duplicate_repeats_is_waited_for() {
    let decided = decided();
    let (late, log) = memory(MemoryLog::new());
    let topic = log.create_topic(&topics::specs(PARTITIONS)[1]).unwrap();
    let token = log.claim("owner").unwrap();
    late.hold();
    for record in all(&decided, topics::DECISIONS) {
        let mut batch = BatchBuilder::new();
        batch.push(record.timestamp, None, record.value.as_deref(), &[]);
        let at = TopicPartition {
            topic,
            partition: record.partition,
        };
        let append = Append {
            purpose: Purpose::Intake,
            batches: vec![(at, batch.finish().unwrap())],
            consumed: Vec::new(),
            on_end: None,
        };
        log.append(&token, append).unwrap();
    }
    let there = DecisionLog::new(Arc::clone(&log), topic, PARTITIONS, View::Latest);
    let here = DecisionLog::new(Arc::clone(&log), topic, PARTITIONS, View::Durable);
    let newest = there.newest(0).unwrap();
    assert!(newest > 1 && here.newest(0).unwrap() == 0);
    let arrives = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        late.release();
    });
    here.await_number(0, newest).unwrap();
    assert_eq!(here.newest(0).unwrap(), newest);
    arrives.join().unwrap();
    let never = here.await_number(0, newest + 1);
    assert!(
        matches!(never, Err(DecisionError::Behind { .. })),
        "{never:?}"
    );
}

#[test]
fn keys_read_back_as_the_names_they_are_made_of() {
    let (_, log) = memory(decided());
    publish(&log, ViewChoice::ALL, false);
    let key = |seen: &Seen| String::from_utf8(seen.key.clone().unwrap()).unwrap();
    for seen in all(log.as_ref(), topics::CHANGES) {
        assert_eq!(key(&seen), seen.json()["sku"]);
    }
    for seen in all(log.as_ref(), topics::LEVELS) {
        let sku = seen.json()["sku"].as_str().unwrap().replace('/', "%2F");
        assert_eq!(key(&seen), format!("{sku}/m"));
    }
    for seen in all(log.as_ref(), topics::RESERVATIONS) {
        assert_eq!(key(&seen), seen.json()["reservation"]);
    }
    let mut first = 0;
    for seen in all(log.as_ref(), topics::OUTCOMES) {
        let json = seen.json();
        let source = json["source"].as_str().unwrap().replace('/', "%2F");
        assert_eq!(
            key(&seen),
            format!("{source}/{}", json["id"].as_str().unwrap())
        );
        if json["status"] == "duplicate" {
            assert_eq!(json["first"]["status"], "applied", "{json}");
            first += 1;
        }
    }
    assert_eq!(first, 160);
}
