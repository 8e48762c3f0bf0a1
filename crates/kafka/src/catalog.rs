//! What the internal topic says: the log's epoch, its topics' numbers.
//!
//! One compacted topic of one partition, `onhand.log`. Keys and values are words, so that
//! `kafka-console-consumer` shows them readably:
//!
//! | key | value |
//! |---|---|
//! | `log` | epoch |
//! | `id` | the log's own number |
//! | `labels` | names of the topics whose records all bear that number, as only instances write them (`labels`) |
//! | `standing` | `own`, or `filling`, `copy` or `sealed` with the other log's number and where it lies |
//! | `clock` | the time that the log showed last when it was closed |
//! | `topic NAME` | number, partitions, `compacted` or `plain` |

use std::collections::{BTreeMap, BTreeSet};

use onhand_log::{
    Counterpart, Standing, TOPICS_MAX, Timestamp, Topic, TopicError, TopicId, TopicSpec,
};

/// The folded internal topic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) epoch: u64,
    /// 0: it has none yet.
    pub(crate) id: u64,
    /// Topics whose records bear a label, from the first on.
    pub(crate) labelled: BTreeSet<String>,
    pub(crate) standing: Standing,
    pub(crate) clock: Timestamp,
    topics: BTreeMap<u16, TopicSpec>,
}

/// One record of the internal topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Log(u64),
    Id(u64),
    Labelled(BTreeSet<String>),
    Standing(Standing),
    Clock(Timestamp),
    Topic(TopicId, TopicSpec),
}

/// By code.
const STANDINGS: [&str; 4] = ["own", "filling", "copy", "sealed"];

fn standing_of(value: &str) -> Option<Standing> {
    let mut words = value.splitn(3, ' ');
    let word = words.next()?;
    let code = STANDINGS.iter().position(|known| *known == word)?;
    let other = match words.next() {
        None => Counterpart::default(),
        Some(id) => Counterpart::new(id.parse().ok()?, words.next().unwrap_or_default()),
    };
    Standing::from_code(u8::try_from(code).ok()?, other)
}

impl Entry {
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Log(_) => "log".into(),
            Self::Id(_) => "id".into(),
            Self::Labelled(_) => "labels".into(),
            Self::Standing(_) => "standing".into(),
            Self::Clock(_) => "clock".into(),
            Self::Topic(_, spec) => format!("topic {}", spec.name),
        }
    }

    pub(crate) fn value(&self) -> String {
        match self {
            Self::Log(number) | Self::Id(number) => number.to_string(),
            Self::Labelled(topics) => topics
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" "),
            Self::Standing(standing) => {
                let word = STANDINGS.get(usize::from(standing.code()));
                let word = word.copied().unwrap_or_default();
                match standing.counterpart() {
                    None => word.to_owned(),
                    Some(other) => format!("{word} {} {}", other.id, other.place),
                }
            }
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
            "id" => number().map(Self::Id),
            "labels" => {
                let topics = value.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
                (!topics.contains("")).then_some(Self::Labelled(topics))
            }
            "standing" => standing_of(value).map(Self::Standing),
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
            Entry::Id(id) => self.id = id,
            Entry::Labelled(topics) => self.labelled = topics,
            Entry::Standing(standing) => self.standing = standing,
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

    /// Whether nobody wrote into the log yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.topics.is_empty()
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
            Entry::Id(7),
            Entry::Labelled(["a".to_owned(), "b".to_owned()].into()),
            Entry::Standing(Standing::Own),
            Entry::Standing(Standing::Sealed(Counterpart::new(9, "a place of words"))),
            Entry::Standing(Standing::Filling(Counterpart::new(9, ""))),
            Entry::Clock(1_700_000_000_000),
            Entry::Topic(TopicId(3), spec),
        ] {
            assert_eq!(Entry::parse(&entry.key(), &entry.value()), Ok(entry));
        }
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (key, value) in [
            ("", ""),
            ("log", "x"),
            ("standing", "up"),
            ("labels", ""),
            ("topic a", "1 2"),
            ("later", "1"),
        ] {
            let error = Entry::parse(key, value).expect_err(key);
            assert!(error.contains(&format!("{key:?} = {value:?}")), "{error}");
        }
    }
}
