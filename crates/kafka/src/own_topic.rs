//! Reading a topic of the log's own: small records, words, in one partition, from its begin on as it grows.

use std::time::{Duration, Instant};

use onhand_log::Offset;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tracing::debug;

use crate::client::Quiet;
use crate::cold;
use crate::error::words;

/// How long a read waits at the broker for more.
pub(crate) const FETCH_WAIT: Duration = Duration::from_millis(10);

/// Such a topic, and how far it was read.
pub(crate) struct OwnTopic {
    name: String,
    consumer: BaseConsumer<Quiet>,
    next: Offset,
    timeout: Duration,
}

impl OwnTopic {
    /// `timeout`: how long a question to a broker may take.
    pub(crate) fn open(
        config: &ClientConfig,
        name: String,
        timeout: Duration,
    ) -> Result<Self, String> {
        let consumer = BaseConsumer::from_config_and_context(config, Quiet);
        Ok(Self {
            name,
            consumer: consumer.map_err(|error| words(&error))?,
            next: 0,
            timeout,
        })
    }

    /// The cluster's name of it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The first offset held, and where what this consumer sees ends.
    pub(crate) fn ends(&self) -> Result<(Offset, Offset), String> {
        cold::ends(&self.consumer, &self.name, 0, self.timeout)
            .map_err(|why| format!("where {} ends: {why}", self.name))
    }

    /// Hands out what was not read yet of `low..end`, which [`OwnTopic::ends`] gave a moment ago: key and
    /// value, of the records that `is_ours` names.
    pub(crate) fn read_to(
        &mut self,
        (low, end): (Offset, Offset),
        until: Instant,
        is_ours: impl Fn(&BorrowedMessage<'_>) -> bool,
        mut each: impl FnMut(&str, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        self.next = self.next.max(low);
        if self.next >= end {
            return Ok(());
        }
        self.assign()?;
        let read = self.read(end, until, &is_ours, &mut each);
        // Nothing is fetched between two reads.
        if let Err(error) = self.consumer.unassign() {
            debug!(%error, topic = self.name, "could not be let go");
        }
        read
    }

    fn read(
        &mut self,
        end: Offset,
        until: Instant,
        is_ours: &impl Fn(&BorrowedMessage<'_>) -> bool,
        each: &mut impl FnMut(&str, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let mut checked = false;
        while self.next < end {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    if is_ours(&message) {
                        each(&text(message.key()), &text(message.payload()))?;
                    }
                    self.next = message.offset() + 1;
                }
                // A leader that is new may not know yet how far the one before it was. It says where the
                // topic ends only once it does.
                Some(Err(KafkaError::PartitionEOF(_))) if !checked => {
                    self.ends()?;
                    self.assign()?;
                    checked = true;
                }
                // Assigned anew after `end` was known, so this is an end at or behind it.
                Some(Err(KafkaError::PartitionEOF(_))) => self.next = end,
                Some(Err(error)) => debug!(%error, topic = self.name, "reading"),
            }
            if self.next < end && Instant::now() >= until {
                let (name, waited) = (&self.name, self.timeout);
                return Err(format!("{name} was not read within {waited:?}"));
            }
        }
        Ok(())
    }

    fn assign(&self) -> Result<(), String> {
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.name, 0, KafkaOffset::Offset(self.next))
            .map_err(|error| words(&error))?;
        self.consumer.assign(&from).map_err(|error| words(&error))
    }
}
