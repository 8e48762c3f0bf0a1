//! Packs: many inputs, or many decisions, in the value of one record. `docs/format.md` has the bytes.

use serde::Deserialize;
#[cfg(test)]
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

use crate::wire::{
    Answer, Ask, CountNote, HoldRecord, Input, LevelAfter, Movement, Outcome, ReservationRecord,
    Resolved, SendWhat,
};

/// The version that this code reads.
pub(crate) const VERSION: u8 = 1;

pub(crate) const HAS_STOCK: u8 = 1;
pub(crate) const HAS_COUNT: u8 = 2;
pub(crate) const HAS_HOLDS: u8 = 4;
pub(crate) const HAS_RESERVATIONS: u8 = 8;
pub(crate) const HAS_SENDS: u8 = 16;
/// Nobody was told of an internal record that could not be processed: it is no part, only said.
pub(crate) const ALERT: u8 = 32;
/// The event time is the one that the command was sent with, and is not written again.
pub(crate) const EVENT_AS_SENT: u8 = 64;
/// The only location is the one that the command names, and is not written again.
pub(crate) const LOCATION_OF_INPUT: u8 = 128;

/// The fingerprint of a command's name at its key: above, the upper half of that of source and id; below,
/// the key's, seeded with the lower half.
pub(crate) fn name_of(source: &str, id: &str, key: &str) -> u128 {
    let sender = fingerprint(&[source.as_bytes(), id.as_bytes()]);
    let low = u64::try_from(sender & u128::from(u64::MAX)).expect("64 bits are kept");
    (sender >> 64) << 64 | u128::from(xxh3_64_with_seed(key.as_bytes(), low))
}

/// A fingerprint of names that cannot contain the byte 0xff, in order.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u128 {
    // Names have at most 512 bytes each; two of them fit, and longer ones only cost an allocation.
    let mut small = [0xff_u8; 1_024];
    let length: usize = parts.iter().map(|part| part.len() + 1).sum::<usize>() - 1;
    if length > small.len() {
        return xxh3_128(&parts.join(&0xff));
    }
    let mut at = 0;
    for part in parts {
        if let Some(into) = small.get_mut(at..at + part.len()) {
            into.copy_from_slice(part);
        }
        at += part.len() + 1;
    }
    xxh3_128(small.get(..length).unwrap_or_default())
}

/// The fingerprint of a command's content: its bytes as they stand in the pack.
pub(crate) fn content_of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The entries of a pack: what follows its version byte.
pub(crate) fn body(pack: &[u8]) -> Result<&[u8], String> {
    match pack.split_first() {
        None => Err("the pack is empty".to_owned()),
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(format!("pack version {version} is not known")),
    }
}

/// Takes values off the front of bytes, and says which bytes each was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn take<T: Deserialize<'a>>(&mut self) -> Result<T, String> {
        let (value, rest) =
            postcard::take_from_bytes(self.rest).map_err(|error| error.to_string())?;
        self.rest = rest;
        Ok(value)
    }

    /// As [`Reader::take`], with the bytes that it was read from.
    fn take_spanned<T: Deserialize<'a>>(&mut self) -> Result<(T, &'a [u8]), String> {
        let before = self.rest;
        let value = self.take()?;
        let length = before.len() - self.rest.len();
        Ok((value, before.get(..length).unwrap_or_default()))
    }

    fn take_many<T: Deserialize<'a>>(&mut self) -> Result<Vec<Spanned<'a, T>>, String> {
        let count: usize = self.take()?;
        // Every element takes at least a byte: a count beyond that is damage, not a reason to
        // reserve memory.
        if count > self.rest.len() {
            return Err(format!("a list of {count} does not fit into what is left"));
        }
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let (value, bytes) = self.take_spanned()?;
            all.push(Spanned { value, bytes });
        }
        Ok(all)
    }
}

/// The length of the input at the front of `bytes`.
pub(crate) fn input_at(bytes: &[u8]) -> Result<(Input<'_>, usize), String> {
    let mut reader = Reader { rest: bytes };
    let input = reader.take()?;
    Ok((input, bytes.len() - reader.rest.len()))
}

/// A value with the bytes that it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<'a, T> {
    pub(crate) value: T,
    pub(crate) bytes: &'a [u8],
}

/// What stands at the head of a decision pack.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct DecisionHead {
    pub(crate) first: u64,
    pub(crate) base: i64,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Common<'a> {
    pub(crate) later_ms: u64,
    pub(crate) has: u8,
    #[serde(borrow)]
    pub(crate) outcome: Option<Outcome<'a>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct StockPart {
    pub(crate) decimals: u8,
    pub(crate) movements: Vec<Movement>,
    pub(crate) levels: Vec<LevelAfter>,
}

/// What a decision sends: to which partition, what, and its bytes as the receiver's input has them
/// behind the variant's number.
#[derive(Clone, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) to: u16,
    pub(crate) what: SendWhat<'a>,
    pub(crate) bytes: &'a [u8],
}

/// One decision.
#[derive(Clone, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) number: u64,
    pub(crate) at: i64,
    pub(crate) input: Input<'a>,
    pub(crate) input_bytes: &'a [u8],
    pub(crate) outcome: Option<Outcome<'a>>,
    pub(crate) alert: bool,
    pub(crate) has_stock: bool,
    pub(crate) event_time: Option<i64>,
    pub(crate) decimals: u8,
    pub(crate) locations: Vec<&'a str>,
    pub(crate) movements: Vec<Movement>,
    pub(crate) levels: Vec<LevelAfter>,
    pub(crate) count: Option<CountNote>,
    pub(crate) holds: Vec<Spanned<'a, HoldRecord<'a>>>,
    pub(crate) reservations: Vec<Spanned<'a, ReservationRecord<'a>>>,
    pub(crate) resolved: Vec<Resolved<'a>>,
    pub(crate) sends: Vec<Sent<'a>>,
}

impl<'a> Decision<'a> {
    /// The SKU that movements, levels and holds are about.
    pub(crate) fn sku(&self) -> Option<&'a str> {
        match &self.input {
            Input::Command(command) => command.body.sku(),
            Input::Ask(ask) => Some(ask.sku),
            Input::Answer(_) | Input::Tick => None,
        }
    }

    pub(crate) fn location(&self, index: u8) -> Option<&'a str> {
        self.locations.get(usize::from(index)).copied()
    }
}

/// The decisions of a pack, in order. Ends after the first error.
#[derive(Debug)]
pub(crate) struct Decisions<'a> {
    reader: Reader<'a>,
    base: i64,
    number: u64,
}

/// Reads the head of a decision pack.
pub(crate) fn decisions(pack: &[u8]) -> Result<(u64, Decisions<'_>), String> {
    let mut reader = Reader { rest: body(pack)? };
    let head: DecisionHead = reader.take()?;
    let all = Decisions {
        reader,
        base: head.base,
        number: head.first,
    };
    Ok((head.first, all))
}

impl<'a> Decisions<'a> {
    fn read(&mut self) -> Result<Decision<'a>, String> {
        let reader = &mut self.reader;
        let (input, input_bytes) = reader.take_spanned::<Input<'a>>()?;
        let common: Common<'a> = reader.take()?;
        let at = self
            .base
            .checked_add_unsigned(common.later_ms)
            .ok_or("the log time is out of range")?;
        let mut decision = Decision {
            number: self.number,
            at,
            input,
            input_bytes,
            outcome: common.outcome,
            alert: common.has & ALERT != 0,
            has_stock: common.has & HAS_STOCK != 0,
            event_time: None,
            decimals: 0,
            locations: Vec::new(),
            movements: Vec::new(),
            levels: Vec::new(),
            count: None,
            holds: Vec::new(),
            reservations: Vec::new(),
            resolved: Vec::new(),
            sends: Vec::new(),
        };
        if decision.has_stock {
            let (sent_at, location) = named_by(&decision.input);
            if common.has & EVENT_AS_SENT != 0 {
                decision.event_time = Some(sent_at.ok_or("the command has no event time")?);
            } else {
                let behind_ms: Option<i64> = reader.take()?;
                decision.event_time = behind_ms.map(|ms| at.saturating_sub(ms));
            }
            if common.has & LOCATION_OF_INPUT != 0 {
                let location = location.ok_or("the command does not name one location")?;
                decision.locations.push(location);
            } else {
                decision.locations = reader.take()?;
            }
            let stock: StockPart = reader.take()?;
            decision.decimals = stock.decimals;
            decision.movements = stock.movements;
            decision.levels = stock.levels;
        }
        if common.has & HAS_COUNT != 0 {
            decision.count = Some(reader.take()?);
        }
        if common.has & HAS_HOLDS != 0 {
            decision.holds = reader.take_many()?;
        }
        if common.has & HAS_RESERVATIONS != 0 {
            decision.reservations = reader.take_many()?;
            decision.resolved = reader.take()?;
        }
        if common.has & HAS_SENDS != 0 {
            let count: usize = reader.take()?;
            for _ in 0..count {
                let to = reader.take()?;
                let (what, bytes) = reader.take_spanned()?;
                decision.sends.push(Sent {
                    to,
                    what,
                    // The variant's number is one byte; the receiver has another one there.
                    bytes: bytes.get(1..).unwrap_or_default(),
                });
            }
        }
        self.number += 1;
        Ok(decision)
    }
}

impl<'a> Iterator for Decisions<'a> {
    type Item = Result<Decision<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.reader.rest = &[];
        }
        Some(read)
    }
}

/// The event time and the location that a decision need not write again.
fn named_by<'a>(input: &Input<'a>) -> (Option<i64>, Option<&'a str>) {
    match input {
        Input::Command(command) => (command.occurred_at, command.body.location()),
        Input::Ask(_) | Input::Answer(_) | Input::Tick => (None, None),
    }
}

/// Between which partitions an internal input travelled, and its running number there.
pub(crate) fn internal<'a>(input: &Input<'a>) -> Option<(u16, u64)> {
    match input {
        Input::Ask(Ask { from, number, .. }) | Input::Answer(Answer { from, number, .. }) => {
            Some((*from, *number))
        }
        Input::Command(_) | Input::Tick => None,
    }
}

/// The fingerprint of an internal record, the same where it is sent and where it is received.
pub(crate) fn internal_fingerprint(is_answer: bool, bytes: &[u8]) -> u64 {
    // Without the last bit, in which asks and answers of equal bytes then differ.
    xxh3_64(bytes) & !1 | u64::from(is_answer)
}
