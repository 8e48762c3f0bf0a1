//! The values that hold offsets of the log that they stand in. A copy has other offsets, so these are
//! expressed anew in it; everything else of a record stays as it is, byte for byte.
//!
//! | topic | what |
//! |---|---|
//! | `stock.state` | the redo mark: an offset of `stock.decisions`; of a reservation, where each commit under way or waiting stands in `stock.commands` |
//! | `stock.decisions` | the same of reservation records in decisions; the header of a cut, which names a record of `stock.commands` |
//! | `dead-letters` | `origin.offset`, and the key of what could not be read |

use onhand_ledger::StateRecord;
use onhand_ledger::reservation::{ReservationRecord, Waiting, Wish};
use onhand_log::{Header, Offset, Record};
use onhand_streams::{CUT_HEADER, Cut, REDO_MARK};

use crate::{pack, topics};

/// Says what an offset of that topic and partition is in the other log. `None`: there is no such
/// partition.
pub(super) type Translate<'t> = &'t dyn Fn(&str, u16, Offset) -> Option<Offset>;

/// What a record has in place of what it had.
#[derive(Default, Debug)]
pub(super) struct Changed {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    /// A header's name and its value.
    pub(super) header: Option<(&'static str, Vec<u8>)>,
}

const ORIGIN_OFFSET: &str = "origin.offset";

impl Changed {
    /// The record as it is with the change, given to `then`.
    pub(super) fn with<R>(&self, record: &Record<'_>, then: impl FnOnce(&Record<'_>) -> R) -> R {
        let mut headers = record.headers.clone();
        if let Some((name, value)) = &self.header {
            // The first is ours. A sender's own of the same name may stand behind it.
            if let Some(header) = headers.iter_mut().find(|h| h.key == *name) {
                header.value = Some(value);
            }
        }
        then(&Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: self.key.as_deref().or(record.key),
            value: self.value.as_deref().or(record.value),
            headers,
        })
    }
}

/// Whether records of this topic can hold offsets.
pub(super) fn holds_offsets(topic: &str) -> bool {
    [topics::DECISIONS, topics::STATE, topics::DEAD_LETTERS].contains(&topic)
}

/// What changes in a record of that topic and partition; `None` when nothing does.
///
/// # Errors
/// What cannot be read, in words.
pub(super) fn translate(
    topic: &str,
    partition: u16,
    record: &Record<'_>,
    to: Translate<'_>,
) -> Result<Option<Changed>, String> {
    let in_commands = |offset| to(topics::COMMANDS, partition, offset);
    let value = match (topic, record.value) {
        (topics::STATE, Some(value)) => state(record.key, value, partition, to)?,
        (topics::DECISIONS, Some(value)) => decisions(value, &in_commands)?,
        (topics::DEAD_LETTERS, _) => return Ok(dead_letter(record, to)),
        _ => None,
    };
    let header = if topic == topics::DECISIONS {
        cut(record, &in_commands)
    } else {
        None
    };
    let changes = value.is_some() || header.is_some();
    Ok(changes.then_some(Changed {
        key: None,
        value,
        header,
    }))
}

/// Where the input record stands that a step ended within.
fn cut(
    record: &Record<'_>,
    in_commands: &dyn Fn(Offset) -> Option<Offset>,
) -> Option<(&'static str, Vec<u8>)> {
    let cut = Cut::of(record)?;
    let offset = in_commands(cut.offset)?;
    Some((CUT_HEADER, Cut { offset, ..cut }.bytes().to_vec()))
}

fn state(
    key: Option<&[u8]>,
    value: &[u8],
    partition: u16,
    to: Translate<'_>,
) -> Result<Option<Vec<u8>>, String> {
    let key = key.unwrap_or_default();
    if key == REDO_MARK {
        let mark = value.try_into().map(Offset::from_be_bytes);
        let mark = mark.map_err(|_| "a redo mark is not 8 bytes")?;
        let there = to(topics::DECISIONS, partition, mark).ok_or("there is no stock.decisions")?;
        return Ok(Some(there.to_be_bytes().to_vec()));
    }
    if key.first() != Some(&RESERVATION_KEY) {
        return Ok(None);
    }
    let record = postcard::from_bytes::<StateRecord<'_>>(value);
    let StateRecord::Reservation(before) = record.map_err(|error| error.to_string())? else {
        return Err("a record under a reservation's key is none".to_owned());
    };
    let mut after = before.clone();
    let in_commands = |offset| to(topics::COMMANDS, partition, offset);
    if !told(&mut after, &in_commands) {
        return Ok(None);
    }
    unchanged(value, &encoded(&StateRecord::Reservation(before)))?;
    Ok(Some(encoded(&StateRecord::Reservation(after))))
}

/// How keys of reservations begin, see `docs/format.md`.
const RESERVATION_KEY: u8 = b'r';

fn encoded(record: &StateRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack::put(&mut bytes, record);
    bytes
}

fn decisions(
    value: &[u8],
    in_commands: &dyn Fn(Offset) -> Option<Offset>,
) -> Result<Option<Vec<u8>>, String> {
    let words = |error: pack::PackError| error.to_string();
    let mut changes = false;
    let (mut before, mut after) = (pack::DecisionPack::default(), pack::DecisionPack::default());
    for decision in pack::decisions(value).map_err(words)? {
        let mut decision = decision.map_err(words)?;
        before.push(&decision);
        for record in &mut decision.reservations {
            changes |= told(record, in_commands);
        }
        after.push(&decision);
    }
    if !changes {
        return Ok(None);
    }
    unchanged(value, &before.take())?;
    Ok(Some(after.take()))
}

/// What is written anew must be what was written, but for the offsets.
fn unchanged(was: &[u8], would_be: &[u8]) -> Result<(), String> {
    if was == would_be {
        return Ok(());
    }
    Err("this version writes it in another way; copy with the version that wrote it".to_owned())
}

/// Where the commits of a reservation that have no outcome yet stand. True when there is one.
fn told(record: &mut ReservationRecord<'_>, to: &dyn Fn(Offset) -> Option<Offset>) -> bool {
    let running = record.step.iter_mut().filter_map(|step| step.by.as_mut());
    let waiting = record.queue.iter_mut().filter_map(|waiting| match waiting {
        Waiting::Command(taken) => Some(taken),
        _ => None,
    });
    let mut any = false;
    for taken in running.chain(waiting) {
        if let Wish::Commit { told, .. } = &mut taken.wish
            && let Some(there) = to(told.offset)
        {
            told.offset = there;
            any = true;
        }
    }
    any
}

fn dead_letter(record: &Record<'_>, to: Translate<'_>) -> Option<Changed> {
    let header = |name: &str| {
        let found = record.headers.iter().find(|h: &&Header<'_>| h.key == name);
        std::str::from_utf8(found?.value?).ok()
    };
    let topic = header("origin.topic")?;
    let partition = header("origin.partition")?.parse().ok()?;
    let offset: Offset = header(ORIGIN_OFFSET)?.parse().ok()?;
    let there = to(topic, partition, offset)?;
    // Of what could be read the key is a decision's number.
    let by_offset = topic == topics::COMMANDS
        && record.key == Some(&offset.unsigned_abs().to_be_bytes()[..])
        && !is_readable(record.value.unwrap_or_default());
    Some(Changed {
        key: by_offset.then(|| there.unsigned_abs().to_be_bytes().to_vec()),
        value: None,
        header: Some((ORIGIN_OFFSET, there.to_string().into_bytes())),
    })
}

fn is_readable(value: &[u8]) -> bool {
    pack::inputs(value).is_ok_and(|mut inputs| inputs.all(|input| input.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_step_was_cut_is_said_anew() {
        let cut = Cut {
            offset: 7,
            parts: 3,
        };
        let value = cut.bytes();
        let header = Header {
            key: CUT_HEADER,
            value: Some(&value),
        };
        let record = Record {
            offset: 5,
            timestamp: 0,
            key: None,
            value: None,
            headers: vec![header],
        };
        let to = |topic: &str, partition: u16, offset: Offset| {
            assert_eq!((topic, partition), (topics::COMMANDS, 2));
            Some(10 * offset)
        };
        let changed = translate(topics::DECISIONS, 2, &record, &to).unwrap();
        let there = changed.unwrap().with(&record, Cut::of);
        assert_eq!(there, Some(Cut { offset: 70, ..cut }));
    }
}
