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
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tracing::debug;

use crate::client::Quiet;
use crate::cold;
use crate::error::words;
use crate::labels::Labels;
use crate::runs;
use crate::settings::KafkaSettings;

/// The topic's name, without the prefix.
pub(crate) const TOPIC: &str = "onhand.positions";

/// How long a read waits at the broker for more.
const FETCH_WAIT: Duration = Duration::from_millis(10);

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
    topic: String,
    labels: Arc<Labels>,
    timeout: Duration,
    /// Sees what is committed.
    consumer: BaseConsumer<Quiet>,
    /// Sees where the topic ends, open transactions included.
    tail: BaseConsumer<Quiet>,
    table: Table,
    next: Offset,
    /// Questions that the table answers.
    answers: u64,
}

impl Positions {
    /// The topic must exist.
    pub(crate) fn open(settings: &KafkaSettings, labels: &Arc<Labels>) -> Result<Self, String> {
        let config = settings.consumer(FETCH_WAIT);
        let consumer = |config: &rdkafka::ClientConfig| {
            BaseConsumer::from_config_and_context(config, Quiet).map_err(|error| words(&error))
        };
        let mut uncommitted = config.clone();
        uncommitted.set("isolation.level", "read_uncommitted");
        let reader = Reader {
            topic: settings.topic(TOPIC),
            labels: Arc::clone(labels),
            timeout: settings.request_timeout,
            consumer: consumer(&config)?,
            tail: consumer(&uncommitted)?,
            table: Table::default(),
            next: 0,
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
        let end = self.ends(&self.tail)?.1;
        let low = loop {
            let (low, stable) = self.ends(&self.consumer)?;
            if stable >= end {
                break low;
            }
            if Instant::now() >= until {
                let (topic, waited) = (&self.topic, self.timeout);
                return Err(format!(
                    "a transaction on {topic} stayed open for more than {waited:?}"
                ));
            }
            std::thread::sleep(PAUSE);
        };
        self.next = self.next.max(low);
        if self.next >= end {
            return Ok(());
        }
        self.assign()?;
        let read = self.read_to(end, until);
        // Nothing is fetched between two reads.
        if let Err(error) = self.consumer.unassign() {
            debug!(%error, "positions could not be let go");
        }
        read
    }

    fn ends(&self, consumer: &BaseConsumer<Quiet>) -> Result<(Offset, Offset), String> {
        cold::ends(consumer, &self.topic, 0, self.timeout)
            .map_err(|why| format!("where {} ends: {why}", self.topic))
    }

    fn assign(&self) -> Result<(), String> {
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.topic, 0, KafkaOffset::Offset(self.next))
            .map_err(|error| words(&error))?;
        self.consumer.assign(&from).map_err(|error| words(&error))
    }

    fn read_to(&mut self, end: Offset, until: Instant) -> Result<(), String> {
        let mut checked = false;
        while self.next < end {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    let text = |bytes: Option<&[u8]>| {
                        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                    };
                    if runs::is_ours(&self.labels, &message) {
                        let position = parse(&text(message.key()), &text(message.payload()))?;
                        self.table.fold(position);
                    }
                    self.next = message.offset() + 1;
                }
                // A leader that is new may not know yet how far the one before it was. It says where the
                // topic ends only once it does.
                Some(Err(KafkaError::PartitionEOF(_))) if !checked => {
                    self.ends(&self.consumer)?;
                    self.assign()?;
                    checked = true;
                }
                // Assigned anew after `end` was decided, so this is an end at or behind it.
                Some(Err(KafkaError::PartitionEOF(_))) => self.next = self.next.max(end),
                Some(Err(error)) => debug!(%error, "reading positions"),
            }
            if self.next < end && Instant::now() >= until {
                let (topic, waited) = (&self.topic, self.timeout);
                return Err(format!("{topic} was not read within {waited:?}"));
            }
        }
        Ok(())
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
