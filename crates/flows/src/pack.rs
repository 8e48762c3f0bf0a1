//! Packs: many inputs, or many decisions, in the value of one record. `docs/format.md` has the bytes.
//!
//! A pack is a version byte followed by entries in postcard's encoding. What many entries share, or
//! what follows from other fields, is not written again: a decision's number follows from its place, its
//! log time is relative to the pack's, its fingerprints follow from its input.

use std::fmt;

use onhand_ledger::decision::SendWhat;
use onhand_ledger::{Body, Command, Decision, Input, Location, Time};
use postcard::de_flavors::Slice;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

/// What a pack has room for from the beginning, bytes.
const PACK_ROOM: usize = 768;

/// The version that this code writes.
const VERSION: u8 = 1;

// The variants of `Input` in its encoding: entries are written by what they hold, without building an
// `Input` around it.
const INPUT_COMMAND: u8 = 0;
const INPUT_ASK: u8 = 1;
const INPUT_ANSWER: u8 = 2;
const INPUT_TICK: u8 = 3;

/// Why bytes are no pack of this version.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PackError {
    #[error("the pack is empty")]
    Empty,
    #[error("pack version {0} is not known to this build; use the newer one that wrote it")]
    Version(u8),
    #[error("entry at byte {at} cannot be decoded: {what}")]
    Entry { at: usize, what: String },
}

/// The key that decides a command's partition: its SKU, or its reservation's id.
pub fn key_of<'c>(command: &'c Command<'_>) -> &'c str {
    match &command.body {
        Body::Receive(fact) | Body::Return(fact) | Body::Adjust(fact) | Body::Ship { fact, .. } => {
            fact.sku.as_str()
        }
        Body::Move { sku, .. }
        | Body::Count { sku, .. }
        | Body::Set { sku, .. }
        | Body::Item { sku, .. } => sku.as_str(),
        Body::Commit { reservation, .. }
        | Body::Reserve { reservation, .. }
        | Body::Confirm { reservation, .. }
        | Body::Release { reservation, .. }
        | Body::Extend { reservation, .. } => reservation.as_str(),
    }
}

/// The fingerprint of a command's name at its key. The upper half is [`sender_of`], so that what a
/// sender calls by one name can be found at every key.
pub fn name_of(source: &str, id: &str, key: &str) -> u128 {
    let sender = sender_hash(source, id);
    let low = u64::try_from(sender & u128::from(u64::MAX)).expect("64 bits are kept");
    (sender >> 64) << 64 | u128::from(xxh3_64_with_seed(key.as_bytes(), low))
}

/// The fingerprint of (source, id) alone.
pub fn sender_of(source: &str, id: &str) -> u64 {
    u64::try_from(sender_hash(source, id) >> 64).expect("64 bits are left")
}

fn sender_hash(source: &str, id: &str) -> u128 {
    // 0xff stands in no UTF-8 string, so that ("a", "bc") and ("ab", "c") differ. Names have at most 255
    // bytes at the edge; longer ones only cost an allocation.
    let mut small = [0xff_u8; 512];
    let length = source.len() + 1 + id.len();
    match (small.get_mut(..source.len()), length <= 512) {
        (Some(head), true) => head.copy_from_slice(source.as_bytes()),
        _ => return xxh3_128(&[source.as_bytes(), id.as_bytes()].join(&0xff)),
    }
    if let Some(tail) = small.get_mut(source.len() + 1..length) {
        tail.copy_from_slice(id.as_bytes());
    }
    xxh3_128(small.get(..length).unwrap_or_default())
}

/// An empty pack. Room for a command or two and what is decided about them is taken at once: growing
/// there byte by byte took eight steps.
fn begun() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACK_ROOM);
    bytes.push(VERSION);
    bytes
}

/// Commands of one partition on their way into the log.
#[derive(Debug)]
pub struct CommandPack {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for CommandPack {
    fn default() -> Self {
        Self::new()
    }
}

impl CommandPack {
    pub fn new() -> Self {
        Self {
            bytes: begun(),
            count: 0,
        }
    }

    /// Adds a command. All commands of a pack have the same partition.
    pub fn push(&mut self, command: &Command<'_>) {
        self.bytes.push(INPUT_COMMAND);
        put(&mut self.bytes, command);
        self.count += 1;
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

pub(crate) fn put<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    postcard::serialize_with_flavor::<T, VecFlavor<'_>, ()>(value, VecFlavor(bytes))
        .expect("memory takes any value whose lengths are known");
}

/// postcard's output into a borrowed vector, whole slices at a time.
struct VecFlavor<'v>(&'v mut Vec<u8>);

impl postcard::ser_flavors::Flavor for VecFlavor<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// What owners send each other, packed as inputs of the receiver.
#[derive(Debug)]
pub(crate) struct InternalPack(Vec<u8>);

impl InternalPack {
    pub(crate) fn new() -> Self {
        Self(begun())
    }

    /// Adds a record for the owner it is sent to. Written as the `Input` that it is there.
    pub(crate) fn push(&mut self, what: &SendWhat<'_>) {
        match what {
            SendWhat::Ask(ask) => {
                self.0.push(INPUT_ASK);
                put(&mut self.0, ask);
            }
            SendWhat::Answer(answer) => {
                self.0.push(INPUT_ANSWER);
                put(&mut self.0, answer);
            }
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The pack of a tick.
pub(crate) fn tick_pack() -> Vec<u8> {
    vec![VERSION, INPUT_TICK]
}

/// A pack of one input, given in its bytes.
pub(crate) fn pack_of(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.len() + 1);
    bytes.push(VERSION);
    bytes.extend_from_slice(input);
    bytes
}

/// An input of a pack with its fingerprints.
#[derive(Debug)]
pub struct PackedInput<'a> {
    pub input: Input<'a>,
    pub name: u128,
    pub content: u64,
    /// Where it stands in the pack, for a dead letter.
    pub bytes: &'a [u8],
}

/// The inputs of a pack, in order. It ends after the first error.
///
/// # Errors
/// [`PackError`] when it is no pack of this version.
pub fn inputs(
    pack: &[u8],
) -> Result<impl Iterator<Item = Result<PackedInput<'_>, PackError>>, PackError> {
    let mut rest = body(pack)?;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = pack.len() - rest.len();
        let all = std::mem::take(&mut rest);
        let mut values = Values::of(all, at);
        let input = match values.next() {
            Ok(input) => input,
            Err(error) => return Some(Err(error)),
        };
        rest = match values.rest() {
            Ok(behind) => behind,
            Err(error) => return Some(Err(error)),
        };
        let bytes = all.get(..all.len() - rest.len()).unwrap_or_default();
        let (name, content) = fingerprints(&input, bytes);
        Some(Ok(PackedInput {
            input,
            name,
            content,
            bytes,
        }))
    }))
}

fn fingerprints(input: &Input<'_>, bytes: &[u8]) -> (u128, u64) {
    match input {
        // The encoding is canonical, so equal bytes are equal fields as sent.
        Input::Command(command) => (
            name_of(
                command.source.as_str(),
                command.id.as_str(),
                key_of(command),
            ),
            xxh3_64(bytes),
        ),
        _ => (0, 0),
    }
}

fn body(pack: &[u8]) -> Result<&[u8], PackError> {
    match pack.split_first() {
        None => Err(PackError::Empty),
        Some((&VERSION, rest)) => Ok(rest),
        Some((&version, _)) => Err(PackError::Version(version)),
    }
}

/// Reads what postcard wrote, one value after the other.
struct Values<'a> {
    deserializer: postcard::Deserializer<'a, Slice<'a>>,
    /// Where in the pack what is read begins.
    at: usize,
}

impl<'a> Values<'a> {
    fn of(bytes: &'a [u8], at: usize) -> Self {
        Self {
            deserializer: postcard::Deserializer::from_bytes(bytes),
            at,
        }
    }

    fn wrong(&self, error: &postcard::Error) -> PackError {
        PackError::Entry {
            at: self.at,
            what: error.to_string(),
        }
    }

    fn next<T: Deserialize<'a>>(&mut self) -> Result<T, PackError> {
        T::deserialize(&mut self.deserializer).map_err(|error| self.wrong(&error))
    }

    /// A list in the place of what stands there, in the room that it has.
    fn fill<T: Deserialize<'a>>(&mut self, list: &mut Vec<T>) -> Result<(), PackError> {
        list.clear();
        Fill(list)
            .deserialize(&mut self.deserializer)
            .map_err(|error| self.wrong(&error))
    }

    /// What is behind the last value.
    fn rest(self) -> Result<&'a [u8], PackError> {
        let at = self.at;
        self.deserializer
            .finalize()
            .map_err(|error| PackError::Entry {
                at,
                what: error.to_string(),
            })
    }
}

struct Fill<'v, T>(&'v mut Vec<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Fill<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fill<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(value) = list.next_element()? {
            self.0.push(value);
        }
        Ok(())
    }
}

/// What stands at the head of a decision pack: the first decision's number, and the log time that the
/// others are relative to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct DecisionHead {
    first: u64,
    base: Time,
}

const HAS_STOCK: u8 = 1;
const HAS_COUNT: u8 = 2;
const HAS_HOLDS: u8 = 4;
const HAS_RESERVATIONS: u8 = 8;
const HAS_SENDS: u8 = 16;
const ALERT: u8 = 32;
/// The event time is the command's `occurred_at`.
const EVENT_AS_SENT: u8 = 64;
/// The only location is the one that the input names.
const LOCATION_OF_INPUT: u8 = 128;

/// The event time and the location that an input names, when it is a fact about one location: most
/// decisions need not write them again.
fn named_by<'i, 'a>(input: &'i Input<'a>) -> (Option<Time>, Option<&'i Location<'a>>) {
    let Input::Command(command) = input else {
        return (None, None);
    };
    let location = match &command.body {
        Body::Receive(fact) | Body::Return(fact) | Body::Adjust(fact) | Body::Ship { fact, .. } => {
            Some(&fact.location)
        }
        Body::Count { location, .. } | Body::Set { location, .. } => Some(location),
        _ => None,
    };
    (command.occurred_at, location)
}

/// A pack of decisions under construction.
#[derive(Debug, Default)]
pub struct DecisionPack {
    bytes: Vec<u8>,
    base: Time,
    count: u32,
}

impl DecisionPack {
    /// Adds the next decision and says at which byte it begins.
    pub fn push(&mut self, decision: &Decision<'_>) -> usize {
        if self.count == 0 {
            self.bytes = begun();
            self.base = decision.at;
            put(
                &mut self.bytes,
                &DecisionHead {
                    first: decision.number,
                    base: decision.at,
                },
            );
        }
        self.count += 1;
        let begins = self.bytes.len();
        put_decision(&mut self.bytes, decision, self.base);
        begins
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pack, ready for its record; empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        self.count = 0;
        std::mem::take(&mut self.bytes)
    }
}

fn put_decision(bytes: &mut Vec<u8>, decision: &Decision<'_>, base: Time) {
    put(bytes, &decision.input);
    let (sent_at, location) = named_by(&decision.input);
    let has_stock = !decision.locations.is_empty() || decision.event_time.is_some();
    let event_as_sent = sent_at.is_some() && decision.event_time == sent_at;
    let location_of_input =
        matches!(decision.locations.as_slice(), [only] if Some(only) == location);
    let has = [
        (HAS_STOCK, has_stock),
        (HAS_COUNT, decision.count.is_some()),
        (HAS_HOLDS, !decision.holds.is_empty()),
        (
            HAS_RESERVATIONS,
            !decision.reservations.is_empty() || !decision.resolved.is_empty(),
        ),
        (HAS_SENDS, !decision.sends.is_empty()),
        (ALERT, decision.alert),
        (EVENT_AS_SENT, has_stock && event_as_sent),
        (LOCATION_OF_INPUT, has_stock && location_of_input),
    ];
    let has = has
        .into_iter()
        .filter(|(_, there)| *there)
        .fold(0, |has, (bit, _)| has | bit);
    // Log time never falls within a pack.
    let later_ms = u64::try_from(decision.at.0.saturating_sub(base.0)).unwrap_or(0);
    put(bytes, &(later_ms, has, &decision.outcome));
    if has_stock {
        if !event_as_sent {
            put(
                bytes,
                &decision
                    .event_time
                    .map(|t| decision.at.0.saturating_sub(t.0)),
            );
        }
        if !location_of_input {
            put(bytes, &decision.locations);
        }
        put(
            bytes,
            &(decision.decimals, &decision.movements, &decision.levels),
        );
    }
    if let Some(count) = &decision.count {
        put(bytes, count);
    }
    if has & HAS_HOLDS != 0 {
        put(bytes, &decision.holds);
    }
    if has & HAS_RESERVATIONS != 0 {
        put(bytes, &(&decision.reservations, &decision.resolved));
    }
    if has & HAS_SENDS != 0 {
        put(bytes, &decision.sends);
    }
}

/// Reads the decisions of a pack, in order.
#[derive(Clone, Debug)]
pub struct DecisionReader<'a> {
    pack: &'a [u8],
    rest: &'a [u8],
    base: Time,
    number: u64,
}

/// The decisions of a pack from its first on.
///
/// # Errors
/// [`PackError`] when the head cannot be read; the iterator gives an error and ends where an entry
/// cannot.
pub fn decisions(pack: &[u8]) -> Result<DecisionReader<'_>, PackError> {
    let mut values = Values::of(body(pack)?, 1);
    let head: DecisionHead = values.next()?;
    Ok(DecisionReader {
        pack,
        rest: values.rest()?,
        base: head.base,
        number: head.first,
    })
}

/// The decisions of a pack from the byte at which the one with that number begins.
///
/// # Errors
/// As [`decisions`]; [`PackError::Entry`] when the pack ends before `offset`.
pub fn decisions_at(
    pack: &[u8],
    offset: usize,
    number: u64,
) -> Result<DecisionReader<'_>, PackError> {
    let mut reader = decisions(pack)?;
    reader.rest = pack.get(offset..).ok_or(PackError::Entry {
        at: offset,
        what: "the pack ends before it".to_owned(),
    })?;
    reader.number = number;
    Ok(reader)
}

/// The `count` decisions from the byte `offset` on, of which the first has that number, as a pack of their
/// own under the same head, and the byte at which they begin in it. [`decisions_at`] reads them there
/// as it reads them here.
///
/// # Errors
/// As [`decisions_at`]; [`PackError::Entry`] when the pack holds fewer.
pub fn excerpt(
    pack: &[u8],
    offset: usize,
    number: u64,
    count: u32,
) -> Result<(Vec<u8>, usize), PackError> {
    let head = pack.len() - decisions(pack)?.rest.len();
    let mut reader = decisions_at(pack, offset, number)?;
    for _ in 0..count {
        reader.next().ok_or_else(|| PackError::Entry {
            at: offset,
            what: format!("it holds fewer than {count} decisions from there on"),
        })??;
    }
    let end = pack.len() - reader.rest.len();
    let part = |range: std::ops::Range<usize>| pack.get(range).unwrap_or_default();
    Ok(([part(0..head), part(offset..end)].concat(), head))
}

/// The pack `pack` with the first `count` decisions of `more`, which follow its own, behind them.
///
/// # Errors
/// As [`decisions`]; [`PackError::Entry`] when `more` holds fewer.
pub fn joined(pack: &[u8], more: &[u8], count: u32) -> Result<Vec<u8>, PackError> {
    let base = decisions(pack)?.base;
    let mut reader = decisions(more)?;
    let mut bytes = pack.to_vec();
    for _ in 0..count {
        let decision = reader.next().ok_or_else(|| PackError::Entry {
            at: more.len(),
            what: format!("it holds fewer than {count} decisions"),
        })??;
        put_decision(&mut bytes, &decision, base);
    }
    Ok(bytes)
}

impl<'a> DecisionReader<'a> {
    /// The number of the decision that comes next.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads the next decision in the place of the one given, whose lists keep their room. `false`: there
    /// is none, and what was given is as it was.
    ///
    /// # Errors
    /// [`PackError::Entry`] when it cannot be decoded; what was given is undefined then, and nothing is
    /// read behind it.
    pub fn read(&mut self, decision: &mut Decision<'a>) -> Result<bool, PackError> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let rest = std::mem::take(&mut self.rest);
        self.rest = self.read_from(rest, decision)?;
        self.number += 1;
        Ok(true)
    }

    /// Reads the decision that begins there; what is behind it.
    fn read_from(
        &self,
        bytes: &'a [u8],
        decision: &mut Decision<'a>,
    ) -> Result<&'a [u8], PackError> {
        let at = self.pack.len() - bytes.len();
        let mut values = Values::of(bytes, at);
        decision.input = values.next()?;
        let rest = values.rest()?;
        let input = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
        (decision.name, decision.content) = fingerprints(&decision.input, input);
        decision.number = self.number;

        let mut values = Values::of(rest, at);
        let later_ms = values.next()?;
        decision.at = Time(self.base.0.saturating_add_unsigned(later_ms));
        let has: u8 = values.next()?;
        let has = |bit| has & bit != 0;
        decision.outcome = values.next()?;
        decision.alert = has(ALERT);
        decision.gap = false;
        decision.event_time = None;
        decision.decimals = 0;
        if has(HAS_STOCK) {
            let (sent_at, location) = named_by(&decision.input);
            decision.event_time = if has(EVENT_AS_SENT) {
                sent_at
            } else {
                // How far the event time is behind the log time, ms; negative when ahead.
                let behind_ms: Option<i64> = values.next()?;
                behind_ms.map(|ms| Time(decision.at.0.saturating_sub(ms)))
            };
            if has(LOCATION_OF_INPUT) {
                decision.locations.clear();
                decision.locations.extend(location.cloned());
            } else {
                values.fill(&mut decision.locations)?;
            }
            decision.decimals = values.next()?;
            values.fill(&mut decision.movements)?;
            values.fill(&mut decision.levels)?;
        } else {
            decision.locations.clear();
            decision.movements.clear();
            decision.levels.clear();
        }
        decision.count = has(HAS_COUNT).then(|| values.next()).transpose()?;
        decision.holds.clear();
        if has(HAS_HOLDS) {
            values.fill(&mut decision.holds)?;
        }
        decision.reservations.clear();
        decision.resolved.clear();
        if has(HAS_RESERVATIONS) {
            values.fill(&mut decision.reservations)?;
            values.fill(&mut decision.resolved)?;
        }
        decision.sends.clear();
        if has(HAS_SENDS) {
            values.fill(&mut decision.sends)?;
        }
        values.rest()
    }
}

/// A decision to read others into.
pub fn blank<'a>() -> Decision<'a> {
    Decision::new(0, Time::default(), 0, 0, Input::Tick)
}

impl<'a> Iterator for DecisionReader<'a> {
    type Item = Result<Decision<'a>, PackError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut decision = blank();
        match self.read(&mut decision) {
            Ok(true) => Some(Ok(decision)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
