//! The publishing task: decisions as JSON topics that other programs read.
//!
//! | topic | key | value |
//! |---|---|---|
//! | `stock.changes` | the SKU | a change, as the feed shows it |
//! | `stock.outcomes` | source and id | an outcome without the levels it left, late ones of reservations included |
//! | `stock.levels`, compacted | SKU and location | the level after the last change of it in this append |
//! | `stock.reservations`, compacted | the reservation's id | as it stands after this append |
//!
//! Changes and outcomes may be packed: then a record has no key and holds as many of them as one append
//! brings, a line each. Levels and reservations may not: of each key the newest record stays.
//!
//! Everything in them follows from the decisions alone, so a publisher that begins anew writes on as if
//! it had never stopped. A change's position speaks of its partition, not of all as a feed's does: each
//! partition is published by its own owner.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use onhand_flows::pack::{self, DecisionReader, PackError};
use onhand_ledger::reservation::ReservationRecord;
use onhand_ledger::{Decision, Time};
use onhand_log::{
    BatchBuilder, Offset, Purpose, RecordBatch, Timestamp, TopicId, TopicPartition, View,
};
use percent_encoding::utf8_percent_encode;

use super::lanes::{Made, Work, WorkError};
use crate::decisions::{DecisionError, DecisionLog};
use crate::intake::single::firsts;
use crate::position::{self, Place};
use crate::wire::change::{Change, changes};
use crate::wire::outcome::{self, Detail, First, Origin, Said};
use crate::wire::reservation;
use crate::wire::write::SEGMENT;

/// Bytes of JSON at which an append takes no further pack of decisions. One pack (256 KiB) becomes at most
/// some 8 MB beside what [`FIRSTS_BYTES`] bounds.
const APPEND_BYTES: usize = 3 << 19;

/// Bytes of first outcomes within the duplicates of one pack: a duplicate takes a few bytes in the pack,
/// what it repeats may be a reservation of 100 lines. Above it duplicates are written without `first`,
/// as where the log does not hold it any more.
const FIRSTS_BYTES: usize = 4 << 20;

/// First outcomes that are looked for at a time: one read often finds several.
const FIRSTS_AT_A_TIME: usize = 32;

/// At so many bytes of lines a packed record is full; one line that is longer stands alone.
const PACK_BYTES: usize = 32 << 10;

/// What an outcome shows: the levels it left have topics of their own, and would be three quarters of it.
const SHOWN: Detail = Detail::WithoutLevels;

/// The topics, as far as they are written.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ViewTopics {
    pub(crate) changes: Option<TopicId>,
    pub(crate) outcomes: Option<TopicId>,
    pub(crate) levels: Option<TopicId>,
    pub(crate) reservations: Option<TopicId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) decisions: DecisionLog,
    /// `stock.decisions`.
    pub(crate) input: TopicId,
    pub(crate) topics: ViewTopics,
    /// Changes and outcomes go as many lines in one record.
    pub(crate) packs: bool,
    /// [`Work::pace`].
    pub(crate) pace: Duration,
    pub(crate) epoch: u64,
}

impl Work for Views {
    fn name(&self) -> &'static str {
        onhand_flows::VIEWS
    }

    fn input(&self) -> TopicId {
        self.input
    }

    fn view(&self) -> View {
        View::Latest
    }

    fn purpose(&self) -> Purpose {
        Purpose::View
    }

    fn pace(&self) -> Duration {
        self.pace
    }

    fn take(
        &self,
        partition: u16,
        batches: &[RecordBatch],
        from: Offset,
    ) -> Result<Made, WorkError> {
        let mut made = Made {
            next: from,
            ..Made::default()
        };
        let mut sheet = Sheet {
            topics: self.topics,
            changes: Lines::new(self.packs),
            outcomes: Lines::new(self.packs),
            ..Sheet::default()
        };
        for record in batches.iter().flat_map(|batch| batch.records()) {
            if record.offset < made.next {
                continue;
            }
            if sheet.bytes() >= APPEND_BYTES {
                break;
            }
            let origin = Origin {
                epoch: self.epoch,
                partition,
            };
            self.render(&mut sheet, record.value.unwrap_or_default(), origin)
                .map_err(|error| match error {
                    Unrendered::Pack(why) => WorkError::Lasting(format!(
                        "the record of decisions at offset {} cannot be read: {why}",
                        record.offset
                    )),
                    Unrendered::First(why) => WorkError::Passing(why),
                })?;
            made.records += 1;
            made.next = record.offset + 1;
        }
        made.batches = sheet.finish(partition);
        Ok(made)
    }
}

/// Why a pack was not rendered.
enum Unrendered {
    Pack(String),
    /// What a duplicate repeats could not be read.
    First(String),
}

impl Views {
    fn render(&self, sheet: &mut Sheet, value: &[u8], origin: Origin) -> Result<(), Unrendered> {
        let wrong = |error: PackError| Unrendered::Pack(error.to_string());
        let are_shown = self.topics.changes.or(self.topics.levels).is_some();
        let is_said = self.topics.outcomes.is_some();
        let mut firsts: Option<Firsts<'_>> = None;
        let mut decisions = pack::decisions(value).map_err(wrong)?;
        let mut read = pack::blank();
        while decisions.read(&mut read).map_err(wrong)? {
            let decision = &read;
            let last = decision.levels.len().saturating_sub(1);
            let shown = are_shown.then(|| changes(decision, origin));
            for (index, change) in (0u32..).zip(shown.into_iter().flatten()) {
                // Behind the last of its changes the decision is seen whole.
                let place = (index as usize != last).then_some(Place {
                    partition: origin.partition,
                    index,
                });
                sheet.change(&change, place);
            }
            let outcomes = is_said.then(|| said(decision, origin));
            for said in outcomes.into_iter().flatten() {
                let first = match said.first() {
                    Some(wanted) => firsts
                        .get_or_insert_with(|| self.firsts(origin))
                        .next(wanted, &decisions)
                        .map_err(|error| Unrendered::First(error.to_string()))?,
                    None => None,
                };
                sheet.outcome(&said, first);
            }
            for record in &decision.reservations {
                sheet.reservation(decision.at, record, origin);
            }
        }
        Ok(())
    }

    fn firsts(&self, origin: Origin) -> Firsts<'_> {
        Firsts {
            log: &self.decisions,
            origin,
            asked: BTreeMap::new(),
            found: BTreeMap::new(),
            left: FIRSTS_BYTES,
        }
    }
}

/// The outcomes that a decision brings: its own command's, then those of earlier ones.
pub(super) fn said<'d, 'a>(
    decision: &'d Decision<'a>,
    origin: Origin,
) -> impl Iterator<Item = Said<'d, 'a>> {
    let late = decision
        .resolved
        .iter()
        .filter_map(move |resolved| Said::late(decision, resolved.of, origin));
    Said::own(decision, origin).into_iter().chain(late)
}

/// What the duplicates of one pack repeat, looked up a few at a time, in the order in which they come.
struct Firsts<'v> {
    log: &'v DecisionLog,
    origin: Origin,
    /// By number, the names that were asked for last.
    asked: BTreeMap<u64, u128>,
    found: BTreeMap<u64, First>,
    /// Bytes that may still be written.
    left: usize,
}

impl Firsts<'_> {
    /// What is repeated under that number and name. `behind` are the decisions that come next: what they
    /// repeat is looked up with it.
    fn next(
        &mut self,
        wanted: (u64, u128),
        behind: &DecisionReader<'_>,
    ) -> Result<Option<&First>, DecisionError> {
        let (number, name) = wanted;
        if self.left == 0 {
            return Ok(None);
        }
        if self.asked.get(&number) != Some(&name) {
            self.ask(wanted, behind)?;
        }
        let found = self.found.get(&number);
        if let Some(first) = found {
            self.left = self.left.saturating_sub(first.json.len());
        }
        Ok(found)
    }

    fn ask(
        &mut self,
        wanted: (u64, u128),
        behind: &DecisionReader<'_>,
    ) -> Result<(), DecisionError> {
        self.asked = BTreeMap::from([wanted]);
        // One that cannot be read is told of when its turn comes.
        for decision in behind.clone().map_while(Result::ok) {
            for (number, name) in said(&decision, self.origin).filter_map(|said| said.first()) {
                // One decision may carry several outcomes; it is asked for one at a time.
                let other = self.asked.get(&number).is_some_and(|known| *known != name);
                if other || self.asked.len() == FIRSTS_AT_A_TIME {
                    return self.look_up();
                }
                self.asked.insert(number, name);
            }
        }
        self.look_up()
    }

    fn look_up(&mut self) -> Result<(), DecisionError> {
        self.found = firsts(self.log, self.origin, &self.asked, SHOWN)?;
        Ok(())
    }
}

/// The records of one append, of the topics that are written.
#[derive(Default)]
struct Sheet {
    topics: ViewTopics,
    changes: Lines,
    outcomes: Lines,
    levels: Newest,
    reservations: Newest,
    /// Of the change that is rendered: two topics show it.
    level: Vec<u8>,
    token: Vec<u8>,
}

/// Of a topic that is not compacted: a record for each line of JSON, or many lines in one.
#[derive(Default)]
struct Lines {
    batch: BatchBuilder,
    packs: bool,
    key: Vec<u8>,
    /// Lines of the record that is not full yet, and the time of the last.
    lines: Vec<u8>,
    at: Timestamp,
}

impl Lines {
    fn new(packs: bool) -> Self {
        Self {
            packs,
            ..Self::default()
        }
    }

    fn len(&self) -> usize {
        self.batch.len() + self.lines.len()
    }

    /// Adds a line under that key, which a packed record has none of.
    fn push(
        &mut self,
        at: Timestamp,
        key: impl FnOnce(&mut Vec<u8>),
        json: impl FnOnce(&mut Vec<u8>),
    ) {
        if !self.packs {
            self.key.clear();
            key(&mut self.key);
            self.lines.clear();
            json(&mut self.lines);
            self.batch.push(at, Some(&self.key), Some(&self.lines), &[]);
            return;
        }
        let full = self.lines.len();
        if full > 0 {
            self.lines.push(b'\n');
        }
        json(&mut self.lines);
        if full > 0 && self.lines.len() > PACK_BYTES {
            let lines = self.lines.get(..full);
            self.batch.push(self.at, None, lines, &[]);
            self.lines.drain(..=full);
        }
        self.at = at;
    }

    fn finish(mut self) -> Option<RecordBatch> {
        if self.packs && !self.lines.is_empty() {
            self.batch.push(self.at, None, Some(&self.lines), &[]);
        }
        self.batch.finish()
    }
}

/// Of records of a compacted topic the newest of each key: one append holds one record of a key at most.
#[derive(Default)]
struct Newest {
    /// Keys and values, one after the other: most stay, so none is thrown away before the end.
    bytes: Vec<u8>,
    records: Vec<(Timestamp, Range<usize>, Range<usize>)>,
}

impl Newest {
    fn push(
        &mut self,
        at: Timestamp,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        key(&mut self.bytes);
        let middle = self.bytes.len();
        value(&mut self.bytes);
        let record = (at, start..middle, middle..self.bytes.len());
        self.records.push(record);
    }

    /// In the order in which they were pushed, without those that a later one replaces.
    fn finish(self) -> BatchBuilder {
        let part = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        let mut seen = HashSet::with_capacity(self.records.len());
        let mut newest: Vec<_> = self.records.iter().rev().collect();
        newest.retain(|(_, key, _)| seen.insert(part(key)));
        let mut batch = BatchBuilder::with_capacity(self.bytes.len());
        for (at, key, value) in newest.into_iter().rev() {
            batch.push(*at, Some(part(key)), Some(part(value)), &[]);
        }
        batch
    }
}

impl Sheet {
    /// Bytes so far.
    fn bytes(&self) -> usize {
        let newest = self.levels.bytes.len() + self.reservations.bytes.len();
        self.changes.len() + self.outcomes.len() + newest
    }

    /// A change and the level behind it, which both topics show.
    fn change(&mut self, change: &Change<'_, '_>, place: Option<Place>) {
        let (origin, decision) = (change.origin, change.decision);
        let level = &mut self.level;
        level.clear();
        change.level_view().write(level, origin.epoch);
        if self.topics.changes.is_some() {
            self.token.clear();
            let number = [(origin.partition, decision.number)];
            position::write(&mut self.token, origin.epoch, false, &number, place);
            self.changes.push(
                decision.at.0,
                |key| key.extend_from_slice(change.sku.as_bytes()),
                |json| change.write_with(json, &self.token, level),
            );
        }
        if self.topics.levels.is_some() {
            self.levels.push(
                decision.at.0,
                |key| pair(key, change.sku, change.location),
                |json| json.extend_from_slice(level),
            );
        }
    }

    fn reservation(&mut self, at: Time, record: &ReservationRecord<'_>, origin: Origin) {
        if self.topics.reservations.is_some() {
            self.reservations.push(
                at.0,
                |key| key.extend_from_slice(record.id.as_str().as_bytes()),
                |json| reservation::write(json, record, origin),
            );
        }
    }

    fn outcome(&mut self, said: &Said<'_, '_>, first: Option<&First>) {
        self.outcomes.push(
            said.decision.at.0,
            |key| pair(key, said.source(), said.id()),
            |json| outcome::write(json, said, first, None, SHOWN),
        );
    }

    fn finish(self, partition: u16) -> Vec<(TopicPartition, RecordBatch)> {
        let topics = self.topics;
        let all = [
            (topics.changes, self.changes.finish()),
            (topics.outcomes, self.outcomes.finish()),
            (topics.levels, self.levels.finish().finish()),
            (topics.reservations, self.reservations.finish().finish()),
        ];
        let at = |topic| TopicPartition { topic, partition };
        all.into_iter()
            .filter_map(|(topic, batch)| Some((at(topic?), batch?)))
            .collect()
    }
}

/// Two names as one key, each percent-encoded as one segment of a path, so that it reads back as two.
fn pair(out: &mut Vec<u8>, first: &str, second: &str) {
    out.extend(utf8_percent_encode(first, SEGMENT).flat_map(str::bytes));
    out.push(b'/');
    out.extend(utf8_percent_encode(second, SEGMENT).flat_map(str::bytes));
}
