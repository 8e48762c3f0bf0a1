//! The records of holds: by SKU, and for the whole partition which of them changed and which have
//! ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::hold::HoldRecord;
use crate::state::State;
use crate::values::{Location, ReservationId, Time};
use crate::weight::{Touched, weight};

/// The holds on one SKU. Most SKUs have none: then it is one pointer.
#[derive(Debug, Default)]
pub(crate) struct Holds(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Box<str>, HoldRecord<'static>>,
    /// Those with something undecided.
    undecided: BTreeSet<Box<str>>,
    /// Those that wait, by the number of the decision that took the ask in.
    waiting: BTreeMap<u64, Box<str>>,
    bytes: usize,
}

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn get(&self, reservation: &str) -> Option<&HoldRecord<'static>> {
        self.0.as_ref()?.records.get(reservation)
    }

    /// All of them, in byte order of reservation.
    pub(crate) fn list(&self) -> impl Iterator<Item = &HoldRecord<'static>> {
        self.0.iter().flat_map(|inner| inner.records.values())
    }

    /// The reservations that hold something undecided, in byte order.
    pub(crate) fn undecided(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .flat_map(|inner| inner.undecided.iter().map(AsRef::as_ref))
    }

    /// The reservations whose asks wait, the longest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .flat_map(|inner| inner.waiting.values().map(AsRef::as_ref))
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.waiting.len())
    }

    /// About how much memory they take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |inner| size_of::<Inner>() + inner.bytes)
    }

    fn remove(&mut self, reservation: &str) -> Option<HoldRecord<'static>> {
        let inner = self.0.as_mut()?;
        let record = inner.records.remove(reservation)?;
        inner.undecided.remove(reservation);
        if let Some(waiting) = &record.waiting {
            inner.waiting.remove(&waiting.since);
        }
        inner.bytes = inner.bytes.saturating_sub(record.memory_bytes());
        if inner.records.is_empty() {
            self.0 = None;
        }
        Some(record)
    }

    fn insert(&mut self, record: HoldRecord<'static>) {
        let inner = self.0.get_or_insert_default();
        let name: Box<str> = record.reservation.as_str().into();
        if record.has_undecided() {
            inner.undecided.insert(name.clone());
        }
        if let Some(waiting) = &record.waiting {
            inner.waiting.insert(waiting.since, name.clone());
        }
        inner.bytes += record.memory_bytes();
        inner.records.insert(name, record);
    }
}

/// What is kept of all holds of a partition beside the records themselves.
#[derive(Debug, Default)]
pub(crate) struct HoldIndex {
    /// Ended records, those first that are forgotten first.
    ended: BTreeMap<(Time, u64, Box<str>), u32>,
    /// Changed since the last drain, by slot of the SKU.
    touched: Touched<(u32, Box<str>)>,
}

impl HoldIndex {
    /// About how many bytes the records in [`HoldIndex::drain_touched`] have.
    pub(crate) fn touched_bytes(&self) -> usize {
        self.touched.bytes()
    }

    /// Every record changed since the last call, by slot and reservation; one that is not there any
    /// more is gone.
    pub(crate) fn drain_touched(&mut self) -> Vec<(u32, Box<str>)> {
        self.touched.drain()
    }
}

/// Puts a record in the place of an earlier one; one that keeps nothing takes it away.
pub(crate) fn apply_hold(state: &mut State, slot: u32, record: &HoldRecord<'_>) {
    remove(state, slot, record.reservation.as_str());
    if !record.keeps_nothing() {
        if record.ended() {
            state.holds.ended.insert(end_key(record), slot);
        }
        state.skus.get_mut(slot).holds.insert(record.to_static());
    }
    let bytes = if record.keeps_nothing() {
        0
    } else {
        weight(record)
    };
    touch(state, slot, record.reservation.as_str(), bytes);
}

/// Notes that a record is to be written again, which takes so many bytes, or that it is gone.
fn touch(state: &mut State, slot: u32, reservation: &str, bytes: usize) {
    let key = state.skus.name(slot).len() + reservation.len();
    state
        .holds
        .touched
        .set((slot, reservation.into()), key + bytes);
}

/// Takes a record away, as a changelog says.
pub(crate) fn remove(state: &mut State, slot: u32, reservation: &str) {
    if let Some(before) = state.skus.get_mut(slot).holds.remove(reservation) {
        state.holds.ended.remove(&end_key(&before));
    }
}

/// Forgets ended records as ids are forgotten: by age of log time, and above a number the oldest.
pub(crate) fn forget(state: &mut State) {
    let (age, most) = (
        state.settings().ids_age_ms,
        state.settings().ids_max as usize,
    );
    let now = state.log_time();
    while let Some(((at, _, _), _)) = state.holds.ended.first_key_value() {
        if at.plus(age) > now && state.holds.ended.len() <= most {
            return;
        }
        let Some(((_, _, reservation), slot)) = state.holds.ended.pop_first() else {
            return;
        };
        state.skus.get_mut(slot).holds.remove(&reservation);
        touch(state, slot, &reservation, 0);
    }
}

fn end_key(record: &HoldRecord<'_>) -> (Time, u64, Box<str>) {
    (record.at, record.number, record.reservation.as_str().into())
}

impl HoldRecord<'_> {
    /// Nothing is kept: it takes the record away.
    pub(crate) fn keeps_nothing(&self) -> bool {
        self.lines.is_empty() && self.shipped.is_empty() && self.waiting.is_none()
    }

    /// Something of it is not decided yet.
    pub(crate) fn has_undecided(&self) -> bool {
        self.undecided.iter().any(|quantity| !quantity.is_zero())
    }

    /// Nothing is open and nothing waits.
    pub(crate) fn ended(&self) -> bool {
        let open =
            |line: &crate::LineState<'_>| !line.reserved.is_zero() || !line.committed.is_zero();
        self.waiting.is_none() && !self.lines.iter().any(open)
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lines: usize = self
            .lines
            .iter()
            .map(|l| size_of_val(l) + l.location.as_str().len())
            .sum();
        let waiting = self
            .waiting
            .as_ref()
            .map_or(0, |w| size_of_val(w.lines.as_slice()));
        size_of::<Self>()
            + 2 * self.reservation.as_str().len()
            + lines
            + size_of_val(self.undecided.as_slice())
            + size_of_val(self.shipped.as_slice())
            + waiting
            + 32
    }

    /// The same record, owned.
    pub fn to_static(&self) -> HoldRecord<'static> {
        HoldRecord {
            reservation: self.reservation.to_static(),
            lines: self.lines.iter().map(crate::LineState::to_static).collect(),
            undecided: self.undecided.clone(),
            shipped: self
                .shipped
                .iter()
                .map(super::Directed::to_static)
                .collect(),
            waiting: self.waiting.as_ref().map(super::WaitingAsk::to_static),
            number: self.number,
            at: self.at,
        }
    }
}

impl crate::LineState<'_> {
    /// The same line, owned.
    pub fn to_static(&self) -> crate::LineState<'static> {
        crate::LineState {
            line: self.line,
            location: self.location.to_static(),
            asked: self.asked,
            reserved: self.reserved,
            committed: self.committed,
            shipped: self.shipped,
            given_back: self.given_back,
        }
    }
}

impl super::Directed<'_> {
    fn to_static(&self) -> super::Directed<'static> {
        let to = match &self.to {
            super::ShipTarget::Line(line) => super::ShipTarget::Line(*line),
            super::ShipTarget::Location(at) => super::ShipTarget::Location(at.to_static()),
            super::ShipTarget::Any => super::ShipTarget::Any,
        };
        super::Directed {
            to,
            quantity: self.quantity,
        }
    }
}

impl super::WaitingAsk<'_> {
    fn to_static(&self) -> super::WaitingAsk<'static> {
        super::WaitingAsk {
            since: self.since,
            step: self.step,
            lines: self.lines.iter().map(crate::AskLine::to_static).collect(),
            partial: self.partial,
            sole: self.sole,
            whole: self.whole,
        }
    }
}

impl crate::AskLine<'_> {
    /// The same line, owned.
    pub fn to_static(&self) -> crate::AskLine<'static> {
        crate::AskLine {
            line: self.line,
            quantity: self.quantity,
            location: self.location.as_ref().map(Location::to_static),
            given_back: self.given_back,
        }
    }
}

impl HoldRecord<'_> {
    /// A reservation of which nothing is known here.
    pub(crate) fn new(reservation: ReservationId<'_>) -> HoldRecord<'_> {
        HoldRecord {
            reservation,
            lines: Vec::new(),
            undecided: Vec::new(),
            shipped: Vec::new(),
            waiting: None,
            number: 0,
            at: Time(0),
        }
    }
}
