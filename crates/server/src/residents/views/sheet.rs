//! The records that views are written as: lines of JSON, each a record or packed, and the newest of each key.

use std::collections::HashSet;
use std::ops::Range;

use onhand_ledger::Time;
use onhand_ledger::reservation::ReservationRecord;
use onhand_log::{BatchBuilder, RecordBatch, Timestamp, TopicId, TopicPartition};
use percent_encoding::utf8_percent_encode;

use super::SHOWN;
use crate::position::{self, Place};
use crate::wire::change::Change;
use crate::wire::outcome::{self, First, Origin, Said};
use crate::wire::reservation;
use crate::wire::write::SEGMENT;

/// At so many bytes of lines a packed record is full; one line that is longer stands alone.
const PACK_BYTES: usize = 32 << 10;

/// The topics, as far as they are written.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ViewTopics {
    pub(super) changes: Option<TopicId>,
    pub(super) outcomes: Option<TopicId>,
    pub(super) levels: Option<TopicId>,
    pub(super) reservations: Option<TopicId>,
}

/// The records of one append, of the topics that are written.
#[derive(Default)]
pub(super) struct Sheet {
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
    /// Of these topics; changes and outcomes packed or not.
    pub(super) fn new(topics: ViewTopics, packs: bool) -> Self {
        Self {
            topics,
            changes: Lines::new(packs),
            outcomes: Lines::new(packs),
            ..Self::default()
        }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        let newest = self.levels.bytes.len() + self.reservations.bytes.len();
        self.changes.len() + self.outcomes.len() + newest
    }

    /// A change and the level behind it, which both topics show.
    pub(super) fn change(&mut self, change: &Change<'_, '_>, place: Option<Place>) {
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

    pub(super) fn reservation(&mut self, at: Time, record: &ReservationRecord<'_>, origin: Origin) {
        if self.topics.reservations.is_some() {
            self.reservations.push(
                at.0,
                |key| key.extend_from_slice(record.id.as_str().as_bytes()),
                |json| reservation::write(json, record, origin),
            );
        }
    }

    pub(super) fn outcome(&mut self, said: &Said<'_, '_>, first: Option<&First>) {
        self.outcomes.push(
            said.decision.at.0,
            |key| pair(key, said.source(), said.id()),
            |json| outcome::write(json, said, first, None, SHOWN),
        );
    }

    pub(super) fn finish(self, partition: u16) -> Vec<(TopicPartition, RecordBatch)> {
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
