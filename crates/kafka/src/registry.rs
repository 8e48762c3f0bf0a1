//! Reading and writing the internal topic `onhand.log`.
//!
//! Topics are made, and the clock is noted, once in a while and by any instance. Whoever writes holds
//! one transactional id that all instances share: taking it fences the instance that had it. So it is a
//! lock, and one that nobody can forget to give back: for as long as
//! commits under it succeed nobody else has written, and what was read is still so. Who finds its
//! lock taken reads the topic again, takes it back and decides anew.

use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::catalog::{Catalog, Entry};
use crate::client::Quiet;
use crate::cold;
use crate::error::words;
use crate::producer::{Failed, Outgoing, TransactionalProducer};
use crate::settings::KafkaSettings;

/// How long a read of the internal topic waits at the broker for more.
const FETCH_WAIT: Duration = Duration::from_millis(10);

/// This process's access to the internal topic.
pub(crate) struct Registry {
    settings: KafkaSettings,
    topic: String,
    consumer: BaseConsumer<Quiet>,
    catalog: Catalog,
    next: i64,
    lock: Option<TransactionalProducer>,
}

impl Registry {
    /// The internal topic must exist.
    pub(crate) fn open(settings: &KafkaSettings) -> Result<Self, String> {
        let config = settings.consumer(FETCH_WAIT);
        let consumer =
            BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| words(&error))?;
        Ok(Self {
            settings: settings.clone(),
            topic: settings.catalog(),
            consumer,
            catalog: Catalog::default(),
            next: 0,
            lock: None,
        })
    }

    /// As far as it was read or written last.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Reads on to the end.
    pub(crate) fn refresh(&mut self) -> Result<(), String> {
        let until = Instant::now() + self.settings.request_timeout;
        let (low, end) = self.ends()?;
        self.next = self.next.max(low);
        if self.next >= end {
            return Ok(());
        }
        self.assign()?;
        let read = self.read_to(end, until);
        // Nothing is fetched between two reads.
        if let Err(error) = self.consumer.unassign() {
            debug!(%error, "the internal topic could not be let go");
        }
        read
    }

    fn ends(&self) -> Result<(i64, i64), String> {
        cold::ends(
            &self.consumer,
            &self.topic,
            0,
            self.settings.request_timeout,
        )
        .map_err(|why| format!("where {} ends: {why}", self.topic))
    }

    fn assign(&self) -> Result<(), String> {
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.topic, 0, Offset::Offset(self.next))
            .map_err(|error| words(&error))?;
        self.consumer.assign(&from).map_err(|error| words(&error))
    }

    fn read_to(&mut self, end: i64, until: Instant) -> Result<(), String> {
        let mut checked = false;
        while self.next < end {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    let text = |bytes: Option<&[u8]>| {
                        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                    };
                    let entry = Entry::parse(&text(message.key()), &text(message.payload()))?;
                    self.catalog.fold(entry);
                    self.next = message.offset() + 1;
                }
                // A leader that is new may not know yet how far the one before it was. It says where the
                // topic ends only once it does.
                Some(Err(KafkaError::PartitionEOF(_))) if !checked => {
                    self.ends()?;
                    self.assign()?;
                    checked = true;
                }
                // Assigned anew for this read, so this is an end that lies at or behind `end`.
                Some(Err(KafkaError::PartitionEOF(_))) => self.next = self.next.max(end),
                Some(Err(error)) => debug!(%error, "reading the internal topic"),
            }
            if Instant::now() >= until {
                let waited = self.settings.request_timeout;
                return Err(format!("the internal topic was not read within {waited:?}"));
            }
        }
        Ok(())
    }

    /// Writes what `decide` says on the newest catalog, all of it or nothing. When somebody else
    /// wrote in between it is asked again.
    pub(crate) fn write<E: From<String>>(
        &mut self,
        mut decide: impl FnMut(&Catalog) -> Result<Vec<Entry>, E>,
    ) -> Result<(), E> {
        let until = Instant::now() + self.settings.append_timeout;
        let mut pause = Duration::from_millis(5);
        loop {
            let failed = match self.try_write(&mut decide) {
                Ok(result) => return result,
                Err(failed) => failed,
            };
            self.lock = None;
            if Instant::now() >= until {
                return Err(E::from(format!(
                    "the internal topic cannot be written: {failed}"
                )));
            }
            // Instances that start together take turns: each waits a little longer than before, and
            // not all the same time.
            debug!(failed, "the internal topic is written again");
            std::thread::sleep(pause + jitter());
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn try_write<E>(
        &mut self,
        decide: &mut impl FnMut(&Catalog) -> Result<Vec<Entry>, E>,
    ) -> Result<Result<(), E>, String> {
        if self.lock.is_none() {
            let timeout = self.settings.request_timeout;
            self.lock = Some(TransactionalProducer::take(
                &self.settings,
                &self.topic,
                timeout,
            )?);
            // Under the lock nothing can be added any more behind what this finds.
            self.refresh()?;
        }
        let entries = match decide(&self.catalog) {
            Ok(entries) if entries.is_empty() => return Ok(Ok(())),
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error)),
        };
        let lock = self.lock.as_ref().ok_or("the lock was taken")?;
        if let Err(failed) = commit(lock, &self.topic, &entries, self.settings.append_timeout) {
            return Err(match failed {
                Failed::Aborted { why, .. } | Failed::Fenced { why } | Failed::InDoubt { why } => {
                    why
                }
            });
        }
        for entry in entries {
            self.catalog.fold(entry);
        }
        Ok(Ok(()))
    }
}

fn commit(
    lock: &TransactionalProducer,
    topic: &str,
    entries: &[Entry],
    patience: Duration,
) -> Result<(), Failed> {
    let send = || {
        lock.begin()?;
        for entry in entries {
            let (key, value) = (entry.key(), entry.value());
            lock.send(
                topic,
                0,
                &Outgoing {
                    timestamp: now(),
                    key: Some(key.as_bytes()),
                    value: Some(value.as_bytes()),
                    headers: &[],
                    label: None,
                },
            )?;
        }
        lock.delivered()
    };
    send()?;
    lock.commit(patience)
}

/// The wall clock: for people who read the topic, and nothing else.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Up to 16 ms, different for each caller: from the clock's finest digits.
fn jitter() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Duration::from_micros(u64::from(
        since.map_or(0, |since| since.subsec_nanos()) / 100 % 16_000,
    ))
}
