//! Residents on a log in memory that ends appends in every way.

mod gate;
mod lanes;
mod views;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onhand_flows::{pack, topics};
use onhand_ledger::Input;
use onhand_log::memory::MemoryLog;
use onhand_log::testing::append_and_wait;
use onhand_log::{
    BatchBuilder, Ending, Header, Log, TopicId, TopicPartition, TopicSpec, View, partition_of,
};

use super::views::Views;
use super::{Chosen, Residents};
use crate::config::ViewChoice;

/// Above all pauses together, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Seen {
    partition: u16,
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap()).unwrap()
    }
}

fn topic_of(log: &dyn Log, name: &str) -> TopicId {
    let topics = log.topics();
    let topic = topics.iter().find(|topic| topic.spec.name == name);
    topic.unwrap_or_else(|| panic!("no topic {name}")).id
}

/// All durable records of a topic, partition by partition.
fn all(log: &dyn Log, name: &str) -> Vec<Seen> {
    let topics = log.topics();
    let topic = topics.iter().find(|topic| topic.spec.name == name).unwrap();
    let mut found = Vec::new();
    for partition in 0..topic.spec.partitions {
        let at = TopicPartition {
            topic: topic.id,
            partition,
        };
        let mut from = log.bounds(at, View::Durable).unwrap().start;
        loop {
            let fetch = log.read(at, from, 1 << 20, View::Durable).unwrap();
            if fetch.next == from {
                break;
            }
            for record in fetch.batches.iter().flat_map(|batch| batch.records()) {
                if record.offset < from {
                    continue;
                }
                let headers = record.headers.iter();
                let headers = headers.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec)));
                found.push(Seen {
                    partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
            from = fetch.next;
        }
    }
    found
}

/// Creates the topics of a node that has an inbox.
fn create(log: &dyn Log, partitions: u16) {
    let specs: [TopicSpec; 4] = topics::specs(partitions);
    for spec in specs.iter().chain([&topics::inbox_spec(partitions)]) {
        log.create_topic(spec).unwrap();
    }
}

/// What another program writes.
fn write(log: &dyn Log, records: &[Seen]) {
    let token = log.claim("somebody").unwrap();
    let topic = topic_of(log, topics::INBOX);
    for record in records {
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .map(|(key, value)| Header {
                key,
                value: value.as_deref(),
            })
            .collect();
        let mut batch = BatchBuilder::new();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        batch.push(record.timestamp, key, value, &headers);
        let at = TopicPartition {
            topic,
            partition: record.partition,
        };
        let batches = vec![(at, batch.finish().unwrap())];
        assert_eq!(append_and_wait(log, &token, batches), Ending::Durable);
    }
}

/// A command in the inbox of that partition.
fn command(partition: u16, json: impl Into<Vec<u8>>) -> Seen {
    Seen {
        partition,
        timestamp: 7,
        value: Some(json.into()),
        ..Seen::default()
    }
}

fn receive(partition: u16, id: &str, sku: &str) -> Seen {
    command(
        partition,
        format!(
            r#"{{"source":"s","id":"{id}","type":"receive","sku":"{sku}","location":"m","quantity":1}}"#
        ),
    )
}

/// What the gate took: partition, source, id, key.
fn taken(log: &dyn Log) -> Vec<(u16, String, String, String)> {
    let mut found = Vec::new();
    for record in all(log, topics::COMMANDS) {
        for input in pack::inputs(record.value.as_deref().unwrap()).unwrap() {
            let input = input.unwrap();
            let Input::Command(command) = &input.input else {
                continue;
            };
            let key = onhand_flows::key_of(command).to_owned();
            let (source, id) = (command.source.as_str(), command.id.as_str());
            found.push((record.partition, source.to_owned(), id.to_owned(), key));
        }
    }
    found
}

/// Residents on that log, with all partitions open.
fn start(log: &Arc<dyn Log>, partitions: u16, inbox: bool, views: ViewChoice) -> Residents {
    let chosen = Chosen {
        inbox,
        views,
        pack_views: false,
        views_pace: Duration::ZERO,
        command_bytes: 512 << 10,
    };
    started(log, partitions, chosen)
}

fn started(log: &Arc<dyn Log>, partitions: u16, chosen: Chosen) -> Residents {
    let views = Views::new(log, partitions, chosen).unwrap();
    started_with(log, partitions, chosen, views)
}

fn started_with(
    log: &Arc<dyn Log>,
    partitions: u16,
    chosen: Chosen,
    views: Option<Arc<Views>>,
) -> Residents {
    use super::Resident as _;
    let residents = Residents::start(log, partitions, chosen, views).unwrap();
    (0..partitions).for_each(|partition| residents.open(partition));
    residents
}

/// Lets what is appended become durable, as the engines do after their linger.
struct Flusher(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Flusher {
    fn on(log: &Arc<dyn Log>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, log) = (Arc::clone(&stop), Arc::clone(log));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                log.flush();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether that owner has consumed everything that is there.
fn has_read(log: &dyn Log, owner: &str, name: &str, partitions: u16) -> bool {
    let topic = topic_of(log, name);
    (0..partitions).all(|partition| {
        let at = TopicPartition { topic, partition };
        let end = log.bounds(at, View::Durable).unwrap().end;
        log.consumed(&format!("{owner}/{partition}"), at)
            .unwrap()
            .unwrap_or(0)
            == end
    })
}

/// A number that follows from the last one: the tests' own source of disorder.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A log under test, as itself and as what the code takes.
fn memory(log: MemoryLog) -> (Arc<MemoryLog>, Arc<dyn Log>) {
    let log = Arc::new(log);
    let shared: Arc<dyn Log> = Arc::<MemoryLog>::clone(&log);
    (log, shared)
}

type Notes = Arc<Mutex<Vec<String>>>;
