//! Consumed positions: small records in a compacted topic of one partition, `onhand.positions`, each
//! written in the transaction of the append that consumed. Words, so that `kafka-console-consumer`
//! shows them readably:
//!
//! | key | value |
//! |---|---|
//! | `TOPIC PARTITION OWNER`, the topic by the cluster's name | the next offset, the generation of the claim |
//!
//! Every instance writes here, and a transaction that is open anywhere hides what lies behind it. So
//! whoever wants to know a position reads up to where the topic ends *now*, and waits until everything
//! below that is decided: no longer than a transaction may last.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onhand_log::{Offset, TopicPartition, TopicSpec};

use crate::labels::Labels;
use crate::own_topic::{FETCH_WAIT, OwnTopic};
use crate::runs;
use crate::settings::KafkaSettings;

/// The topic's name, without the prefix.
pub(crate) const TOPIC: &str = "onhand.positions";

/// Between two questions whether everything is decided.
const PAUSE: Duration = Duration::from_millis(2);

/// The topic's shape.
pub(crate) fn spec() -> TopicSpec {
    TopicSpec {
        name: TOPIC.into(),
        partitions: 1,
        compacted: true,
    }
}

/// The key of a position's record.
pub(crate) fn key(topic: &str, partition: u16, owner: &str) -> String {
    format!("{topic} {partition} {owner}")
}

/// Its value.
pub(crate) fn value(next: Offset, generation: u64) -> String {
    format!("{next} {generation}")
}

/// One record, read back.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Position {
    topic: String,
    partition: u16,
    owner: String,
    next: Offset,
    generation: u64,
}

fn parse(key: &str, value: &str) -> Result<Position, String> {
    let read = || {
        let mut words = key.splitn(3, ' ');
        let topic = words.next()?.to_owned();
        let partition = words.next()?.parse().ok()?;
        let owner = words.next()?.to_owned();
        let (next, generation) = value.split_once(' ')?;
        Some(Position {
            topic,
            partition,
            owner,
            next: next.parse().ok()?,
            generation: generation.parse().ok()?,
        })
    };
    read().ok_or_else(|| format!("{TOPIC} holds {key:?} = {value:?}, which is unknown"))
}

/// The positions of one owner: by the cluster's name of a topic, and partition.
pub(crate) type OfOwner = BTreeMap<(String, u16), Offset>;

/// The folded topic. Bounded by owners and their partitions: a record each.
#[derive(Default)]
struct Table(HashMap<String, BTreeMap<(String, u16), (Offset, u64)>>);

impl Table {
    fn fold(&mut self, position: Position) {
        let owner = self.0.entry(position.owner).or_default();
        let place = (position.topic, position.partition);
        let known = owner.get(&place);
        // A claim fences what was claimed before it, so an older generation never comes later. If it
        // did, it would not be the owner's word.
        if known.is_none_or(|(_, generation)| *generation <= position.generation) {
            owner.insert(place, (position.next, position.generation));
        }
    }

    fn of(&self, owner: &str) -> OfOwner {
        let owned = self.0.get(owner).into_iter().flatten();
        owned
            .map(|(place, (next, _))| (place.clone(), *next))
            .collect()
    }
}

/// Reads the topic, for claims and for questions about owners that are not held here.
pub(crate) struct Positions {
    reader: Mutex<Reader>,
    /// Questions asked so far: one read answers all that were asked before it began.
    asked: AtomicU64,
}

struct Reader {
    labels: Arc<Labels>,
    timeout: Duration,
    /// What is committed.
    topic: OwnTopic,
    /// Where the topic ends, open transactions included.
    tail: OwnTopic,
    table: Table,
    /// Questions that the table answers.
    answers: u64,
}

impl Positions {
    /// The topic must exist.
    pub(crate) fn open(settings: &KafkaSettings, labels: &Arc<Labels>) -> Result<Self, String> {
        let config = settings.consumer(FETCH_WAIT);
        let timeout = settings.request_timeout;
        let topic = |config| OwnTopic::open(config, settings.topic(TOPIC), timeout);
        let mut uncommitted = config.clone();
        uncommitted.set("isolation.level", "read_uncommitted");
        let reader = Reader {
            labels: Arc::clone(labels),
            timeout,
            topic: topic(&config)?,
            tail: topic(&uncommitted)?,
            table: Table::default(),
            answers: 0,
        };
        Ok(Self {
            reader: Mutex::new(reader),
            asked: AtomicU64::new(0),
        })
    }

    /// The positions of an owner, all that were committed or may still be when this is called: it
    /// waits for transactions that are open, up to the setting's request timeout.
    pub(crate) fn of(&self, owner: &str) -> Result<OfOwner, String> {
        let question = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut reader = self.reader.lock().expect("no holder of positions panics");
        if reader.answers < question {
            let answers = self.asked.load(Ordering::Acquire);
            reader.refresh()?;
            reader.answers = answers;
        }
        Ok(reader.table.of(owner))
    }

    /// The position of an owner in one partition.
    pub(crate) fn at(
        &self,
        owner: &str,
        topic: &str,
        at: TopicPartition,
    ) -> Result<Option<Offset>, String> {
        let of = self.of(owner)?;
        Ok(of.get(&(topic.to_owned(), at.partition)).copied())
    }
}

impl Reader {
    fn refresh(&mut self) -> Result<(), String> {
        let until = Instant::now() + self.timeout;
        let end = self.tail.ends()?.1;
        let low = loop {
            let (low, stable) = self.topic.ends()?;
            if stable >= end {
                break low;
            }
            if Instant::now() >= until {
                let (topic, waited) = (self.topic.name(), self.timeout);
                return Err(format!(
                    "a transaction on {topic} stayed open for more than {waited:?}"
                ));
            }
            std::thread::sleep(PAUSE);
        };
        let (table, labels) = (&mut self.table, &self.labels);
        self.topic.read_to(
            (low, end),
            until,
            |message| runs::is_ours(labels, message),
            |key, value| {
                table.fold(parse(key, value)?);
                Ok(())
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_whatever_its_owner_is_called() {
        for owner in ["stock/3", "o", "with two words", "", "ü"] {
            let (key, value) = (key("p.stock.commands", 7, owner), value(42, 9));
            let found = parse(&key, &value).expect("it is one");
            assert_eq!((&*found.topic, found.partition), ("p.stock.commands", 7));
            assert_eq!(found.owner, owner);
            assert_eq!((found.next, found.generation), (42, 9));
        }
        for (key, value) in [("", ""), ("t x o", "1 1"), ("t 1 o", "1"), ("t 1", "1 1")] {
            let error = parse(key, value).expect_err(key);
            assert!(error.contains(&format!("{key:?} = {value:?}")), "{error}");
        }
    }

    #[test]
    fn the_last_word_of_the_newest_claim_holds() {
        let mut table = Table::default();
        let at = ("t".to_owned(), 0);
        for (next, generation, holds) in [(5, 2, 5), (3, 2, 3), (9, 1, 3), (4, 3, 4)] {
            let position = parse(&key("t", 0, "o"), &value(next, generation));
            table.fold(position.expect("it is one"));
            assert_eq!(table.of("o").get(&at), Some(&holds));
        }
        assert!(table.of("p").is_empty());
    }
}
