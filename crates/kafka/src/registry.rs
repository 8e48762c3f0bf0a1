//! Reading and writing the internal topic `onhand.log`.
//!
//! Topics are made, and the clock is noted, once in a while and by any instance. Whoever writes holds
//! one transactional id that all instances share: taking it fences the instance that had it. So it is a
//! lock, and one that nobody can forget to give back: for as long as
//! commits under it succeed nobody else has written, and what was read is still so. Who finds its
//! lock taken reads the topic again, takes it back and decides anew.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::catalog::{Catalog, Entry};
use crate::own_topic::{FETCH_WAIT, OwnTopic};
use crate::producer::{Failed, Outgoing, TransactionalProducer};
use crate::settings::KafkaSettings;

/// This process's access to the internal topic.
pub(crate) struct Registry {
    settings: KafkaSettings,
    topic: OwnTopic,
    catalog: Catalog,
    lock: Option<TransactionalProducer>,
}

impl Registry {
    /// The internal topic must exist.
    pub(crate) fn open(settings: &KafkaSettings) -> Result<Self, String> {
        let config = settings.consumer(FETCH_WAIT);
        let topic = OwnTopic::open(&config, settings.catalog(), settings.request_timeout)?;
        Ok(Self {
            settings: settings.clone(),
            topic,
            catalog: Catalog::default(),
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
        let ends = self.topic.ends()?;
        let catalog = &mut self.catalog;
        self.topic.read_to(
            ends,
            until,
            |_| true,
            |key, value| {
                catalog.fold(Entry::parse(key, value)?);
                Ok(())
            },
        )
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
                self.topic.name(),
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
        if let Err(failed) = commit(
            lock,
            self.topic.name(),
            &entries,
            self.settings.append_timeout,
        ) {
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
