//! The gate: commands that others wrote to `stock.inbox`, on their way to the owners of their keys.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::{CommandPack, key_of, topics};
use onhand_ledger::Command;
use onhand_log::{
    BatchBuilder, Header, Log, Offset, Purpose, Record, RecordBatch, TopicId, TopicPartition, View,
    partition_of,
};

use super::lanes::{Made, Work, WorkError};
use crate::wire::command::{self, Given, Way};
use crate::wire::problem;
use crate::wire::refusal::{Refusal, RefusalKind};

/// Records of one append: their decisions come out soon, and share a few packs.
const APPEND_RECORDS: u64 = 2_000;

/// Bytes of records of one append. A larger record goes alone.
const APPEND_BYTES: usize = 1 << 20;

/// What a record costs besides its bytes, about.
const RECORD_OVERHEAD: usize = 64;

/// What a header costs besides its bytes, at most: two lengths.
const HEADER_OVERHEAD: usize = 10;

/// Bytes of a record that is kept whole in `dead-letters`: with its origin it fits into the largest
/// append. Of a larger one key, value and headers stay where they are, in `stock.inbox`.
const LETTER_BYTES_MAX: usize = 15 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) log: Arc<dyn Log>,
    /// [`Log::id`].
    pub(crate) log_id: u64,
    pub(crate) inbox: TopicId,
    pub(crate) commands: TopicId,
    pub(crate) dead_letters: TopicId,
    pub(crate) partitions: u16,
    /// Bytes of a value that are read as a command.
    pub(crate) command_bytes: usize,
}

impl Work for Gate {
    fn name(&self) -> &'static str {
        onhand_flows::GATE
    }

    fn input(&self) -> TopicId {
        self.inbox
    }

    fn view(&self) -> View {
        // Whoever wrote it may still abort it.
        View::Durable
    }

    fn purpose(&self) -> Purpose {
        Purpose::Intake
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    fn take(
        &self,
        partition: u16,
        batches: &[RecordBatch],
        from: Offset,
    ) -> Result<Made, WorkError> {
        let now = self.log.now();
        let mut packs: BTreeMap<u16, CommandPack> = BTreeMap::new();
        let mut letters = BatchBuilder::new();
        let mut made = Made {
            next: from,
            ..Made::default()
        };
        let mut bytes = 0;
        for record in batches.iter().flat_map(|batch| batch.records()) {
            if record.offset < made.next {
                continue;
            }
            bytes += size_of(&record) + RECORD_OVERHEAD;
            if made.records == APPEND_RECORDS || made.records > 0 && bytes > APPEND_BYTES {
                break;
            }
            match self.read(partition, &record) {
                Ok(command) => {
                    let to = partition_of(key_of(&command).as_bytes(), self.partitions);
                    packs.entry(to).or_default().push(&command);
                }
                Err(refusal) => {
                    let reason = problem::sentence(&refusal);
                    if made.aside == 0 {
                        // The first of an append speaks for all: whoever writes garbage writes a lot.
                        tracing::warn!(partition, offset = record.offset, reason, "put aside");
                    }
                    put_letter(&mut letters, now, partition, &record, reason);
                    made.aside += 1;
                }
            }
            made.records += 1;
            made.next = record.offset + 1;
        }
        for (partition, pack) in packs {
            let pack = pack.finish();
            let mut batch = BatchBuilder::with_capacity(pack.len() + RECORD_OVERHEAD);
            // No ticket waits for it: its sender reads the outcome where outcomes are.
            batch.push(now, None, Some(&pack), &[]);
            let to = TopicPartition {
                topic: self.commands,
                partition,
            };
            made.batches.extend(batch.finish().map(|batch| (to, batch)));
        }
        let to = TopicPartition {
            topic: self.dead_letters,
            partition,
        };
        let letters = letters.finish().map(|batch| (to, batch));
        made.batches.extend(letters);
        Ok(made)
    }
}

impl Gate {
    /// The command of a record, as HTTP would take it.
    fn read<'r>(&self, partition: u16, record: &'r Record<'_>) -> Result<Command<'r>, Refusal> {
        let whole = |kind, why: String| Refusal::new(kind, "", why);
        let Some(value) = record.value else {
            let why = "has no value; send one JSON object".to_owned();
            return Err(whole(RefusalKind::Unreadable, why));
        };
        let max = self.command_bytes;
        if value.len() > max {
            let why = format!("is longer than {max} B; send one command in each record");
            return Err(whole(RefusalKind::TooLong, why));
        }
        let text = std::str::from_utf8(value).map_err(|_| {
            let why = "is no UTF-8; send JSON in UTF-8".to_owned();
            whole(RefusalKind::Unreadable, why)
        })?;
        let given = Given {
            id: header(record, "id")?,
            source: header(record, "source")?,
            way: Way::Inbox {
                log: self.log_id,
                partition,
                offset: record.offset,
            },
            ..Given::default()
        };
        // Anybody may write here, and one record must not keep the others from being taken.
        catch_unwind(AssertUnwindSafe(|| command::parse(text, &given))).unwrap_or_else(|_| {
            let why = "could not be read: reading it panicked; report this with the record";
            Err(whole(RefusalKind::Unreadable, why.to_owned()))
        })
    }
}

/// The value of the header of that name.
fn header<'r>(record: &'r Record<'_>, name: &'static str) -> Result<Option<&'r str>, Refusal> {
    let mut values = record.headers.iter().filter(|header| header.key == name);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let wrong = |why: &str| Refusal::invalid(name, format!("as a header {why}"));
    if values.any(|other| other.value != first.value) {
        return Err(wrong("comes more than once; send it once"));
    }
    let Some(value) = first.value else {
        return Err(wrong("has no value; send one, or leave the header out"));
    };
    match std::str::from_utf8(value) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(wrong("is no UTF-8; send text in UTF-8")),
    }
}

fn size_of(record: &Record<'_>) -> usize {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = record.headers.iter();
    let headers = headers.map(|h| h.key.len() + length(h.value) + HEADER_OVERHEAD);
    let headers: usize = headers.sum();
    length(record.key) + length(record.value) + headers
}

/// Keeps a record whole, with where it came from and why. Headers of the sender's own that have the
/// same names stand behind ours.
fn put_letter(
    letters: &mut BatchBuilder,
    now: i64,
    partition: u16,
    record: &Record<'_>,
    mut reason: String,
) {
    let fits = size_of(record) <= LETTER_BYTES_MAX;
    if !fits {
        reason.push_str("; it is too large to be kept here: read it at its origin");
    }
    let [partition, offset, timestamp] = [
        partition.to_string(),
        record.offset.to_string(),
        record.timestamp.to_string(),
    ];
    let ours = [
        ("origin.topic", topics::INBOX),
        ("origin.partition", &partition),
        ("origin.offset", &offset),
        ("origin.timestamp", &timestamp),
        ("reason", &reason),
        ("attempts", "1"),
    ];
    let mut headers: Vec<Header<'_>> = ours
        .iter()
        .map(|(key, value)| Header {
            key,
            value: Some(value.as_bytes()),
        })
        .collect();
    if fits {
        headers.extend(&record.headers);
        letters.push(now, record.key, record.value, &headers);
    } else {
        letters.push(now, None, None, &headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_many_small_headers_is_never_larger_than_it_is_taken_for() {
        let header = Header {
            key: "k",
            value: None,
        };
        let headers = vec![header; 10_000];
        let mut batch = BatchBuilder::new();
        batch.push(0, None, Some(b"v"), &headers);
        let batch = batch.finish().unwrap();
        let record = batch.records().next().unwrap();
        // The batch's own head is below that too.
        assert!(size_of(&record) + 2 * RECORD_OVERHEAD >= batch.bytes().len());
    }
}
