//! The records of `onhand.cluster`, as words that `kafka-console-consumer` shows readably.
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `l/NAME` | incarnation | the newest run of the instance of that name; the last record holds |
//! | `n/INCARNATION` | numbers | its transactional ids that are not known to be dead |
//! | `c/OWNER/INCARNATION/NUMBER` | `claim` | this incarnation may write for the owner |
//! | `i/NAME` | incarnation, address, `warming` | heartbeat; whether it still warms up |
//! | `sealed` | `sealed` | the log moved elsewhere: every run that joined has ended |
//! | `assign` | `INCARNATION=P,P,...` each | which partitions each member shall own, whole; the last record holds |
//!
//! A record without a value takes the one before it back: a claim that was given up or fenced, an
//! instance that leaves, an incarnation that can write nothing more.
//!
//! An incarnation is `NAME.RUN`, and RUN has no dot and no slash. Each claim has a number of its own
//! within its incarnation, so that whoever empties a claim empties that one, and never a newer one of
//! the same owner and incarnation that was written meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Most ids that one record lists: an incarnation ends its old ids before it takes more.
pub(crate) const IDS_MAX: usize = 32;

/// Behind the address in the heartbeat of one that warms up.
const WARMING: &str = "warming";

/// Key and value of the record of a seal.
const SEALED: &str = "sealed";

/// One claim of an owner's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Claim {
    pub(crate) owner: Arc<str>,
    pub(crate) incarnation: Arc<str>,
    pub(crate) number: u64,
}

/// Which partitions each member shall own. Members without any are listed too: who is not in it has
/// ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Assignment {
    pub(crate) members: BTreeMap<Arc<str>, Vec<u16>>,
}

/// What a heartbeat says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Alive {
    pub(crate) incarnation: Arc<str>,
    pub(crate) address: Arc<str>,
    /// Nothing shall be assigned to it yet.
    pub(crate) warms_up: bool,
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    Newest {
        name: Arc<str>,
        incarnation: Arc<str>,
    },
    /// Its living ids; `None`: it can write nothing more.
    Ids(Arc<str>, Option<Vec<u64>>),
    /// `false`: it does not stand any more.
    Claim(Claim, bool),
    /// Of the instance of that name; `None`: it leaves.
    Beat(Arc<str>, Option<Alive>),
    Assign(Assignment),
    /// Whether the log moved elsewhere.
    Sealed(bool),
}

/// The instance's name in an incarnation's.
pub(crate) fn name_of(incarnation: &str) -> &str {
    incarnation
        .rsplit_once('.')
        .map_or(incarnation, |(name, _)| name)
}

impl Note {
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Newest { name, .. } => format!("l/{name}"),
            Self::Ids(incarnation, _) => format!("n/{incarnation}"),
            Self::Claim(claim, _) => {
                let Claim {
                    owner,
                    incarnation,
                    number,
                } = claim;
                format!("c/{owner}/{incarnation}/{number}")
            }
            Self::Beat(name, _) => format!("i/{name}"),
            Self::Assign(_) => "assign".into(),
            Self::Sealed(_) => SEALED.into(),
        }
    }

    pub(crate) fn value(&self) -> Option<String> {
        match self {
            Self::Newest { incarnation, .. } => Some(incarnation.to_string()),
            Self::Ids(_, ids) => ids.as_ref().map(|ids| match ids[..] {
                // An empty value would say that it writes nothing more.
                [] => "none".into(),
                _ => words(ids, " "),
            }),
            Self::Claim(_, stands) => stands.then(|| "claim".into()),
            Self::Sealed(is_sealed) => is_sealed.then(|| SEALED.into()),
            Self::Beat(_, alive) => alive.as_ref().map(Alive::value),
            Self::Assign(assignment) => {
                let members = assignment.members.iter();
                let members: Vec<_> = members
                    .map(|(incarnation, partitions)| {
                        format!("{incarnation}={}", words(partitions, ","))
                    })
                    .collect();
                Some(members.join(" "))
            }
        }
    }

    /// Reads a record back; `None` when it is none of ours.
    pub(crate) fn parse(key: &[u8], value: Option<&[u8]>) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        let value = match value {
            Some([]) | None => None,
            Some(bytes) => Some(std::str::from_utf8(bytes).ok()?),
        };
        if key == SEALED {
            return value
                .is_none_or(|value| value == SEALED)
                .then_some(Self::Sealed(value.is_some()));
        }
        if key == "assign" {
            return Assignment::parse(value?).map(Self::Assign);
        }
        let (kind, name) = key.split_once('/')?;
        match kind {
            "l" => {
                let incarnation = incarnation(value?)?;
                (name_of(&incarnation) == name).then(|| Self::Newest {
                    name: name.into(),
                    incarnation,
                })
            }
            "n" => {
                let ids = match value {
                    None => None,
                    Some("none") => Some(Vec::new()),
                    Some(text) => Some(numbers(text, ' ')?),
                };
                let few = ids.as_ref().is_none_or(|ids| ids.len() <= IDS_MAX);
                let incarnation = incarnation(name)?;
                few.then_some(Self::Ids(incarnation, ids))
            }
            "c" => {
                let (rest, number) = name.rsplit_once('/')?;
                let (owner, run) = rest.rsplit_once('/')?;
                let claim = Claim {
                    owner: owner.into(),
                    incarnation: incarnation(run)?,
                    number: number.parse().ok()?,
                };
                let stands = match value {
                    None => false,
                    Some("claim") => true,
                    Some(_) => return None,
                };
                Some(Self::Claim(claim, stands))
            }
            "i" => {
                let alive = match value {
                    None => None,
                    Some(text) => {
                        let alive = Alive::parse(text)?;
                        if name_of(&alive.incarnation) != name {
                            return None;
                        }
                        Some(alive)
                    }
                };
                (!name.is_empty()).then(|| Self::Beat(name.into(), alive))
            }
            _ => None,
        }
    }
}

impl Alive {
    fn value(&self) -> String {
        let (incarnation, address) = (&self.incarnation, &self.address);
        if self.warms_up {
            format!("{incarnation} {address} {WARMING}")
        } else {
            format!("{incarnation} {address}")
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (run, address, warming) = (words.next()?, words.next()?, words.next());
        let right = warming.is_none_or(|word| word == WARMING) && words.next().is_none();
        right.then_some(Self {
            incarnation: incarnation(run)?,
            address: address.into(),
            warms_up: warming.is_some(),
        })
    }
}

impl Assignment {
    fn parse(text: &str) -> Option<Self> {
        let mut members = BTreeMap::new();
        for member in text.split(' ') {
            let (run, partitions) = member.split_once('=')?;
            let partitions = if partitions.is_empty() {
                Vec::new()
            } else {
                let all = partitions.split(',').map(|number| number.parse().ok());
                all.collect::<Option<Vec<u16>>>()?
            };
            members.insert(incarnation(run)?, partitions);
        }
        let assignment = Self { members };
        assignment.is_whole().then_some(assignment)
    }

    /// Every partition from 0 on is there once.
    fn is_whole(&self) -> bool {
        let mut all: Vec<_> = self.members.values().flatten().copied().collect();
        all.sort_unstable();
        !all.is_empty()
            && all
                .iter()
                .copied()
                .eq(0..u16::try_from(all.len()).unwrap_or(0))
    }

    pub(crate) fn partitions(&self) -> usize {
        self.members.values().map(Vec::len).sum()
    }

    /// Who shall own that partition.
    pub(crate) fn of(&self, partition: u16) -> Option<&Arc<str>> {
        self.members
            .iter()
            .find(|(_, partitions)| partitions.contains(&partition))
            .map(|(incarnation, _)| incarnation)
    }
}

fn words<T: std::fmt::Display>(all: &[T], between: &str) -> String {
    let mut text = String::new();
    for (at, one) in all.iter().enumerate() {
        let before = if at == 0 { "" } else { between };
        // Writing to a string cannot fail.
        let _ = write!(text, "{before}{one}");
    }
    text
}

fn numbers(text: &str, between: char) -> Option<Vec<u64>> {
    text.split(between).map(|word| word.parse().ok()).collect()
}

fn incarnation(text: &str) -> Option<Arc<str>> {
    let (name, run) = text.rsplit_once('.')?;
    let legal = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    let right = !name.is_empty() && !run.is_empty() && text.bytes().all(legal);
    right.then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_read_back() {
        let run: Arc<str> = "shop.eu-1.00ff".into();
        let claim = Claim {
            owner: "stock/3/with words".into(),
            incarnation: Arc::clone(&run),
            number: 7,
        };
        let members = [
            (Arc::clone(&run), vec![0, 2]),
            ("b.1".into(), vec![1]),
            ("c.1".into(), vec![]),
        ];
        let assignment = Assignment {
            members: members.into(),
        };
        let alive = |warms_up| Alive {
            incarnation: Arc::clone(&run),
            address: "10.0.0.1:8080".into(),
            warms_up,
        };
        for note in [
            Note::Newest {
                name: "shop.eu-1".into(),
                incarnation: Arc::clone(&run),
            },
            Note::Ids(Arc::clone(&run), Some(vec![0, 5, u64::MAX])),
            Note::Ids(Arc::clone(&run), Some(vec![])),
            Note::Ids(Arc::clone(&run), None),
            Note::Claim(claim.clone(), true),
            Note::Claim(claim, false),
            Note::Beat("shop.eu-1".into(), Some(alive(false))),
            Note::Beat("shop.eu-1".into(), Some(alive(true))),
            Note::Beat("b".into(), None),
            Note::Assign(assignment),
            Note::Sealed(true),
            Note::Sealed(false),
        ] {
            let (key, value) = (note.key(), note.value());
            let read = Note::parse(key.as_bytes(), value.as_deref().map(str::as_bytes));
            assert_eq!(read, Some(note));
        }
    }

    #[test]
    fn garbage_is_none_of_ours() {
        for (key, value) in [
            ("", "x"),
            ("assign", ""),
            ("assign", "a.1=0,2"),
            ("assign", "a.1=0 b.1=0"),
            ("assign", "a=0"),
            ("c/o/a.1", "claim"),
            ("c/o/a.1/x", "claim"),
            ("c/o/a.1/1", "else"),
            ("i/a", "b.1 host"),
            ("i/a", "a.1"),
            ("i/a", "a.1 host else"),
            ("i/a", "a.1 host warming else"),
            ("l/a", "b.1"),
            ("n/a.1", "1 x"),
            ("n/a", "1"),
            ("later", "1"),
            ("sealed", "else"),
        ] {
            let read = Note::parse(key.as_bytes(), Some(value.as_bytes()));
            assert_eq!(read, None, "{key} = {value}");
        }
        assert_eq!(Note::parse(&[0xff], Some(&[0xff])), None);
        let many = vec!["1"; IDS_MAX + 1].join(" ");
        assert_eq!(Note::parse(b"n/a.1", Some(many.as_bytes())), None);
    }
}
