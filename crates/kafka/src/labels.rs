//! Which records are ours.
//!
//! In the topics that only instances of a log write, each record bears its label: a last header
//! [`KEY`] with the log's own number. What bears none, or that of another log, was written by a
//! stranger: some program whose topic setting is wrong, a mirror of another shop. It is left out where
//! records come from the brokers, as an offset that holds no record is, so whatever reads the log agrees on what is
//! there. It is told of and counted, and stays on the brokers as it is.
//!
//! The label proves who wrote a record, not that the record is right: what bears it and cannot be read, or
//! does not follow the record before it, is damage, and whoever reads it says so. Nor does it keep out
//! who means to forge: it is no secret.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use onhand_log::{Header, Offset};
use tracing::warn;

use crate::positions;
use crate::settings::KafkaSettings;

/// The header.
pub(crate) const KEY: &str = "onhand";
/// So many strangers' records are remembered, so that each is counted and told of once however often it is
/// read. Those beyond are counted at each reading.
const REMEMBERED_MAX: usize = 10_000;
/// So many are told of one by one; of those beyond only each that makes this many more.
const TOLD_MAX: u64 = 1_000;

/// The topics whose records bear a label in a log that is begun now. Those of a log are written down with it:
/// where its first records bore none, none may ever be asked for.
pub(crate) fn topics(settings: &KafkaSettings) -> BTreeSet<String> {
    let mut topics = settings.own_topics.clone();
    topics.insert(positions::TOPIC.to_owned());
    topics
}

/// See the module's text.
pub(crate) struct Labels {
    label: String,
    /// By the cluster's name.
    topics: BTreeSet<String>,
    known: Mutex<BTreeSet<(String, i32, Offset)>>,
    strangers: AtomicU64,
}

impl Labels {
    /// Of the log with that number, whose records bear a label in these topics.
    pub(crate) fn new(settings: &KafkaSettings, log_id: u64, labelled: &BTreeSet<String>) -> Self {
        let topics = labelled.iter().map(|name| settings.topic(name));
        Self {
            label: format!("{log_id:016x}"),
            topics: topics.collect(),
            known: Mutex::default(),
            strangers: AtomicU64::new(0),
        }
    }

    /// What records of that topic bear; `None` where anybody may write.
    pub(crate) fn of(&self, topic: &str) -> Option<&str> {
        self.topics.contains(topic).then_some(&*self.label)
    }

    /// Takes the label off the headers of a record of a topic that has one, if it bears it.
    ///
    /// # Errors
    /// Says what it bears instead.
    pub(crate) fn take_off(&self, headers: &mut Vec<Header<'_>>) -> Result<(), String> {
        match headers.last() {
            Some(last) if last.key == KEY => {
                let value = last.value.unwrap_or_default();
                if value != self.label.as_bytes() {
                    return Err(format!(
                        "it bears the label of another log, {}",
                        value.escape_ascii()
                    ));
                }
                headers.pop();
                Ok(())
            }
            _ => Err("it bears no label".to_owned()),
        }
    }

    /// A stranger's record was met, and is left out.
    pub(crate) fn met(&self, topic: &str, partition: i32, offset: Offset, why: &str) {
        let place = (topic.to_owned(), partition, offset);
        let mut known = self
            .known
            .lock()
            .expect("no holder of what is known panics");
        if known.contains(&place) {
            return;
        }
        if known.len() < REMEMBERED_MAX {
            known.insert(place);
        }
        drop(known);
        let met = self.strangers.fetch_add(1, Ordering::Relaxed) + 1;
        if met <= TOLD_MAX || met.is_multiple_of(TOLD_MAX) {
            warn!(
                topic,
                partition,
                offset,
                why,
                met,
                "left out, as no instance of this log wrote it; keep whoever did from this topic"
            );
        }
    }

    /// How many were met.
    pub(crate) fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        let mut settings = KafkaSettings::new("localhost:9092", "a");
        settings.prefix = "p.".into();
        settings.own_topics = ["own".to_owned()].into();
        Labels::new(&settings, 0xab, &topics(&settings))
    }

    fn header<'a>(key: &'a str, value: &'a [u8]) -> Header<'a> {
        let value = Some(value);
        Header { key, value }
    }

    #[test]
    fn only_own_topics_have_a_label() {
        let labels = labels();
        assert_eq!(labels.of("p.own"), Some("00000000000000ab"));
        assert!(labels.of("p.onhand.positions").is_some());
        assert_eq!((labels.of("own"), labels.of("p.other")), (None, None));
        let none = Labels::new(&KafkaSettings::new("b:1", "a"), 1, &BTreeSet::new());
        assert_eq!(none.of("onhand.positions"), None);
    }

    #[test]
    fn the_last_header_says_whose_a_record_is() {
        let labels = labels();
        let sent = header(KEY, b"sent");
        let label = header(KEY, b"00000000000000ab");
        let mut headers = vec![sent, label];
        assert_eq!(labels.take_off(&mut headers), Ok(()));
        assert_eq!(headers, [sent], "a sender may call a header so");
        for (mut strange, why) in [
            (vec![], "no label"),
            (vec![sent], "another log, sent"),
            (vec![label, header("later", b"")], "no label"),
            (
                vec![header(KEY, b"00000000000000ac")],
                "another log, 00000000000000ac",
            ),
        ] {
            let error = labels.take_off(&mut strange).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn each_stranger_counts_once() {
        let labels = labels();
        for offset in [3, 4, 3] {
            labels.met("p.own", 1, offset, "why");
        }
        labels.met("p.own", 2, 3, "why");
        assert_eq!(labels.strangers(), 3);
    }
}
