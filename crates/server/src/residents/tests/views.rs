//! The JSON topics, written through every ending, are those written through none.

use std::sync::atomic::AtomicUsize;

use onhand_flows::{CommandPack, Node, NodeConfig, key_of};
use onhand_ledger::Command;
use onhand_log::memory::Fault;
use onhand_log::{Append, Purpose};
use onhand_streams::{Delivery, Publish, SubmitError, Ticket, WorkerConfig};

use super::*;
use crate::decisions::{DecisionError, DecisionLog};
use crate::residents::views::{Views, said};
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
    let node = node(&log, None);
    decide(&node, &(Arc::new(Nobody) as Arc<dyn Ticket>));
    node.stop().unwrap();
    memory.reopened()
}

fn node(log: &Arc<dyn Log>, publish: Option<Arc<dyn Publish>>) -> Node {
    let config = NodeConfig {
        partitions: Some(PARTITIONS),
        worker: WorkerConfig {
            publish,
            ..WorkerConfig::default()
        },
        ..NodeConfig::default()
    };
    onhand_flows::start(Arc::clone(log), &config).unwrap()
}

fn decide(node: &Node, ticket: &Arc<dyn Ticket>) {
    let submit = |command: &Command<'_>| {
        let partition = partition_of(key_of(command).as_bytes(), PARTITIONS);
        let mut pack = CommandPack::new();
        pack.push(command);
        node.handle
            .submit(vec![(partition, pack.finish())], ticket)
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

/// Partition, key and value.
type Shown = (u16, Option<Vec<u8>>, Option<Vec<u8>>);

fn publish_all(log: &Arc<dyn Log>, pack_views: bool) {
    publish(log, ViewChoice::ALL, pack_views);
}

/// Lines of a view, packed or not.
fn lines(records: &[Shown], partition: u16) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let here = records.iter().filter(|(at, ..)| *at == partition);
    for value in here.filter_map(|(.., value)| value.as_deref()) {
        lines.extend(value.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    }
    lines
}

fn dump(log: &dyn Log) -> Vec<Vec<Shown>> {
    let records = |name| {
        let seen = all(log, name).into_iter();
        seen.map(|seen| (seen.partition, seen.key, seen.value))
            .collect()
    };
    ALL.map(records).to_vec()
}

/// The newest of each key, and that an append of them holds each once: offsets of a batch are dense, so a
/// key that comes twice came in two appends.
fn newest(records: &[Shown]) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
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
            let (wanted, found) = (
                lines(&single[view], partition),
                lines(&packed[view], partition),
            );
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

/// Counts what was told: what comes to nothing is not sent again.
#[derive(Default)]
struct Careless(AtomicUsize);

impl Careless {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Ticket for Careless {
    fn deliver(&self, _: Delivery) {
        self.count();
    }
    fn refused(&self, _: &SubmitError) {
        self.count();
    }
    fn failed(&self, _: &str) {
        self.count();
    }
}

/// The same records of decisions without what they say of being published.
fn without_notes(log: &dyn Log) -> Arc<dyn Log> {
    let (_, plain) = memory(MemoryLog::new());
    create(plain.as_ref(), PARTITIONS);
    let topic = topic_of(plain.as_ref(), topics::DECISIONS);
    let token = plain.claim("owner").unwrap();
    for record in all(log, topics::DECISIONS) {
        let mut batch = BatchBuilder::new();
        batch.push(record.timestamp, None, record.value.as_deref(), &[]);
        let at = TopicPartition {
            topic,
            partition: record.partition,
        };
        let batches = vec![(at, batch.finish().unwrap())];
        assert_eq!(
            append_and_wait(plain.as_ref(), &token, batches),
            Ending::Durable
        );
    }
    plain
}

#[test]
fn views_written_with_the_decisions_are_those_of_a_lane_and_repeats_come_from_there() {
    for (seed, pack_views) in (1..=4).zip([false, true].into_iter().cycle()) {
        let mut dice = Dice(seed);
        let (memory_log, log) = memory(MemoryLog::new());
        create(log.as_ref(), PARTITIONS);
        let chosen = Chosen {
            inbox: false,
            views: ViewChoice::ALL,
            pack_views,
            views_pace: Duration::ZERO,
            command_bytes: 512 << 10,
        };
        let views = Views::new(&log, PARTITIONS, chosen).unwrap().unwrap();
        let publish: Arc<dyn Publish> = Arc::<Views>::clone(&views);
        let node = node(&log, Some(publish));
        let residents = started_with(&log, PARTITIONS, chosen, Some(views));
        if seed > 2 {
            memory_log.script((0..60).map(|_| match dice.below(12) {
                0 => Some(Fault::Aborted),
                1 => Some(Fault::UnknownWritten),
                2 => Some(Fault::UnknownNotWritten),
                _ => None,
            }));
        }
        let flusher = Flusher::on(&log);
        let told = Arc::new(Careless::default());
        decide(&node, &(Arc::<Careless>::clone(&told) as Arc<dyn Ticket>));
        eventually("all is decided and published", || {
            let log = log.as_ref();
            told.0.load(Ordering::Relaxed) >= 400
                && has_read(log, "stock", topics::COMMANDS, PARTITIONS)
                && has_read(log, "views", topics::DECISIONS, PARTITIONS)
        });
        residents.stop();
        node.stop().unwrap();
        drop(flusher);

        let plain = without_notes(log.as_ref());
        publish_all(&plain, pack_views);
        let (found, wanted) = (dump(log.as_ref()), dump(plain.as_ref()));
        assert!(wanted.iter().all(|records| !records.is_empty()));
        for view in 2..4 {
            assert_eq!(newest(&found[view]), newest(&wanted[view]), "seed {seed}");
        }
        let (mut repeats, mut sure) = (0, 0);
        for partition in 0..PARTITIONS {
            let lines = |view: usize, dump: &[Vec<Shown>]| lines(&dump[view], partition);
            assert!(
                lines(0, &found) == lines(0, &wanted),
                "seed {seed}: changes"
            );
            let (mut found, mut wanted) = (lines(1, &found), lines(1, &wanted));
            let is_repeat = |line: &Vec<u8>| {
                let json: serde_json::Value = serde_json::from_slice(line).unwrap();
                json["first"].is_object()
            };
            for is_wanted in [false, true] {
                let only = |lines: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    let lines = lines.iter().filter(|line| is_repeat(line) == is_wanted);
                    lines.cloned().collect()
                };
                let (found, wanted) = (only(&found), only(&wanted));
                assert!(found == wanted, "seed {seed}: outcomes of {partition}");
                *(if is_wanted { &mut repeats } else { &mut sure }) += found.len();
            }
            found.sort_unstable();
            wanted.sort_unstable();
            assert!(found == wanted);
        }
        assert!(repeats > 20 && sure > 100, "seed {seed}: {repeats}, {sure}");
        let notes = all(log.as_ref(), topics::DECISIONS);
        let notes = notes.iter().filter(|record| !record.headers.is_empty());
        assert!(
            notes.count() > 10,
            "seed {seed}: few were published at once"
        );
    }
}

/// Short names, each level its own: what is made of a decision is about as many times as large as it can be.
#[test]
fn the_views_of_the_largest_step_fit_its_append() {
    let (_, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    let chosen = Chosen {
        inbox: false,
        views: ViewChoice::ALL,
        pack_views: false,
        views_pace: Duration::ZERO,
        command_bytes: 512 << 10,
    };
    let views = Views::new(&log, PARTITIONS, chosen).unwrap().unwrap();
    let node = node(&log, Some(views as Arc<dyn Publish>));
    let flusher = Flusher::on(&log);
    let mut pack = CommandPack::new();
    for n in 0..40_000 {
        let json = format!(
            r#"{{"id":"{n}","source":"s","type":"receive","sku":"{n}","location":"m","quantity":1}}"#
        );
        pack.push(&parse(&json, &Given::default()).unwrap());
    }
    let told = Arc::new(Careless::default());
    let ticket: Arc<dyn Ticket> = Arc::<Careless>::clone(&told);
    node.handle
        .submit(vec![(0, pack.finish())], &ticket)
        .unwrap();
    eventually("all is decided", || told.0.load(Ordering::Relaxed) == 1);
    node.stop().unwrap();
    drop(flusher);
    let steps = all(log.as_ref(), topics::DECISIONS);
    let largest = steps.iter().map(|step| step.value.as_ref().unwrap().len());
    let largest = largest.max().unwrap();
    assert!(largest > 500 << 10, "{largest} bytes are no large step");
    for step in &steps {
        let mut notes = step.headers.iter();
        assert!(notes.any(|(name, _)| name == onhand_streams::PUBLISHED_HEADER));
    }
}

/// A repeat is told behind the outcome that it repeats, though others may come between.
#[test]
fn of_one_name_the_first_outcome_is_told_first() {
    let (_, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    let chosen = Chosen {
        inbox: false,
        views: "outcomes".parse().unwrap(),
        pack_views: false,
        views_pace: Duration::ZERO,
        command_bytes: 512 << 10,
    };
    let views = Views::new(&log, PARTITIONS, chosen).unwrap().unwrap();
    let node = node(&log, Some(Arc::<Views>::clone(&views) as Arc<dyn Publish>));
    let flusher = Flusher::on(&log);
    decide(&node, &(Arc::new(Nobody) as Arc<dyn Ticket>));
    // The lane begins when all is decided.
    let residents = started_with(&log, PARTITIONS, chosen, Some(views));
    let told = || all(log.as_ref(), topics::OUTCOMES);
    eventually("repeats are told", || {
        let told = told();
        let repeats = told.iter().filter(|one| one.json()["first"].is_object());
        repeats.count() == 160
    });
    residents.stop();
    node.stop().unwrap();
    drop(flusher);
    let mut seen = std::collections::BTreeSet::new();
    for one in told() {
        let json = one.json();
        let is_new = seen.insert(one.key.clone());
        assert_eq!(json["status"] == "duplicate", !is_new, "{json}");
    }
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
