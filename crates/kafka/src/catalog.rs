//! What the internal topic says: the log's epoch, its topics' numbers.
//!
//! One compacted topic of one partition, `onhand.log`. Keys and values are words, so that
//! `kafka-console-consumer` shows them readably:
//!
//! | key | value |
//! |---|---|
//! | `log` | epoch |
//! | `clock` | the time that the log showed last when it was closed |
//! | `topic NAME` | number, partitions, `compacted` or `plain` |

use std::collections::BTreeMap;

use onhand_log::{TOPICS_MAX, Timestamp, Topic, TopicError, TopicId, TopicSpec};

/// The folded internal topic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) epoch: u64,
    pub(crate) clock: Timestamp,
    topics: BTreeMap<u16, TopicSpec>,
}

/// One record of the internal topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Log(u64),
    Clock(Timestamp),
    Topic(TopicId, TopicSpec),
}

impl Entry {
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Log(_) => "log".into(),
            Self::Clock(_) => "clock".into(),
            Self::Topic(_, spec) => format!("topic {}", spec.name),
        }
    }

    pub(crate) fn value(&self) -> String {
        match self {
            Self::Log(epoch) => epoch.to_string(),
            Self::Clock(time) => time.to_string(),
            Self::Topic(id, spec) => {
                let kind = if spec.compacted { "compacted" } else { "plain" };
                format!("{} {} {kind}", id.0, spec.partitions)
            }
        }
    }

    /// Reads a record back; says what it is when it cannot.
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, String> {
        let strange = || format!("the internal topic holds {key:?} = {value:?}, which is unknown");
        let mut words = value.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (kind, name) = key.split_once(' ').unwrap_or((key, ""));
        let entry = match kind {
            "log" => number().map(Self::Log),
            "clock" => value.parse().ok().map(Self::Clock),
            "topic" => {
                let id = number().and_then(|id| u16::try_from(id).ok());
                let partitions = number().and_then(|count| u16::try_from(count).ok());
                let compacted = match words.next() {
                    Some("compacted") => Some(true),
                    Some("plain") => Some(false),
                    _ => None,
                };
                match (id, partitions, compacted) {
                    (Some(id), Some(partitions), Some(compacted)) => {
                        let name = name.to_owned();
                        let spec = TopicSpec {
                            name,
                            partitions,
                            compacted,
                        };
                        Some(Self::Topic(TopicId(id), spec))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        entry.ok_or_else(strange)
    }
}

impl Catalog {
    pub(crate) fn fold(&mut self, entry: Entry) {
        match entry {
            Entry::Log(epoch) => self.epoch = epoch,
            Entry::Clock(time) => self.clock = self.clock.max(time),
            Entry::Topic(id, spec) => {
                self.topics.insert(id.0, spec);
            }
        }
    }

    pub(crate) fn topics(&self) -> Vec<Topic> {
        let all = self.topics.iter();
        all.map(|(id, spec)| Topic {
            id: TopicId(*id),
            spec: spec.clone(),
        })
        .collect()
    }

    /// The number that the next topic gets.
    pub(crate) fn next_id(&self) -> TopicId {
        let last = self.topics.last_key_value();
        TopicId(last.map_or(0, |(id, _)| id.saturating_add(1)))
    }

    /// The topic of that name if it exists as asked for.
    pub(crate) fn find(&self, spec: &TopicSpec) -> Result<Option<TopicId>, TopicError> {
        spec.check()?;
        let Some((id, known)) = self
            .topics
            .iter()
            .find(|(_, topic)| topic.name == spec.name)
        else {
            if self.topics.len() >= TOPICS_MAX {
                return Err(TopicError::TooMany { limit: TOPICS_MAX });
            }
            return Ok(None);
        };
        if known == spec {
            return Ok(Some(TopicId(*id)));
        }
        Err(known.differs_from(spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_read_back() {
        let spec = TopicSpec {
            name: "stock.state".into(),
            partitions: 16,
            compacted: true,
        };
        for entry in [
            Entry::Log(u64::MAX),
            Entry::Clock(1_700_000_000_000),
            Entry::Topic(TopicId(3), spec),
        ] {
            assert_eq!(Entry::parse(&entry.key(), &entry.value()), Ok(entry));
        }
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (key, value) in [("", ""), ("log", "x"), ("topic a", "1 2"), ("later", "1")] {
            let error = Entry::parse(key, value).expect_err(key);
            assert!(error.contains(&format!("{key:?} = {value:?}")), "{error}");
        }
    }
}
