//! The records of holds: by SKU, and for the whole partition which of them changed and which have
//! ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::hold::HoldRecord;
use crate::state::State;
use crate::touched::Touched;
use crate::values::{Location, ReservationId, Time};

/// The holds on one SKU. Most SKUs have none: then it is one pointer.
#[derive(Debug, Default)]
pub(crate) struct Holds(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Each in its own place: a table moves what it holds, and records are long.
    records: BTreeMap<Box<str>, Box<Kept>>,
    /// Those with something undecided.
    undecided: BTreeSet<Box<str>>,
    /// Those that wait, by the number of the decision that took the ask in.
    waiting: BTreeMap<u64, Box<str>>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    record: HoldRecord<'static>,
    /// What it counts for among what changed since the last drain; 0: it is not among them.
    touched: usize,
}

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn get(&self, reservation: &str) -> Option<&HoldRecord<'static>> {
        let kept = self.0.as_ref()?.records.get(reservation)?;
        Some(&kept.record)
    }

    /// All of them, in byte order of reservation.
    pub(crate) fn list(&self) -> impl Iterator<Item = &HoldRecord<'static>> {
        let records = self.0.iter().flat_map(|inner| inner.records.values());
        records.map(|kept| &kept.record)
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

    fn remove(&mut self, reservation: &str) -> Option<Kept> {
        let inner = self.0.as_mut()?;
        let kept = *inner.records.remove(reservation)?;
        inner.undecided.remove(reservation);
        if let Some(waiting) = &kept.record.waiting {
            inner.waiting.remove(&waiting.since);
        }
        inner.bytes = inner.bytes.saturating_sub(kept.record.memory_bytes());
        if inner.records.is_empty() {
            self.0 = None;
        }
        Some(kept)
    }

    /// Puts a record in the place of an earlier one, which is given back.
    fn put(&mut self, record: HoldRecord<'static>) -> Option<Kept> {
        let inner = self.0.get_or_insert_default();
        inner.bytes += record.memory_bytes();
        let (undecided, waits_since) = (record.has_undecided(), record.waits_since());
        let Some(place) = inner.records.get_mut(record.reservation.as_str()) else {
            let name: Box<str> = record.reservation.as_str().into();
            if undecided {
                inner.undecided.insert(name.clone());
            }
            if let Some(since) = waits_since {
                inner.waiting.insert(since, name.clone());
            }
            inner
                .records
                .insert(name, Box::new(Kept { record, touched: 0 }));
            return None;
        };
        let before = std::mem::replace(&mut **place, Kept { record, touched: 0 });
        let (record, name) = (&before.record, before.record.reservation.as_str());
        inner.bytes = inner.bytes.saturating_sub(record.memory_bytes());
        match (record.has_undecided(), undecided) {
            (false, true) => drop(inner.undecided.insert(name.into())),
            (true, false) => drop(inner.undecided.remove(name)),
            _ => {}
        }
        let waited_since = record.waits_since();
        if waited_since != waits_since {
            waited_since.map(|since| inner.waiting.remove(&since));
            waits_since.map(|since| inner.waiting.insert(since, name.into()));
        }
        Some(before)
    }

    /// What the record counts for among what changed, to be set.
    fn touched_mut(&mut self, reservation: &str) -> Option<&mut usize> {
        let kept = self.0.as_mut()?.records.get_mut(reservation)?;
        Some(&mut kept.touched)
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
    /// About how many bytes the records have that [`drain_touched`] gives.
    pub(crate) fn touched_bytes(&self) -> usize {
        self.touched.bytes()
    }

    /// Which changed since the last drain, by slot of the SKU.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (u32, &str)> {
        let touched = self.touched.keys().iter();
        touched.map(|(slot, reservation)| (*slot, reservation.as_ref()))
    }
}

/// Every record changed since the last call, by slot and reservation; `None`: it is gone.
pub(crate) fn drain_touched(
    state: &mut State,
    each: &mut dyn FnMut(&str, &str, Option<&HoldRecord<'static>>),
) {
    for (slot, reservation) in state.holds.touched.drain() {
        if let Some(touched) = state.skus.get_mut(slot).holds.touched_mut(&reservation) {
            *touched = 0;
        }
        let record = state.skus.get(slot).holds.get(&reservation);
        each(state.skus.name(slot), &reservation, record);
    }
}

/// Puts a record in the place of an earlier one; one that keeps nothing takes it away.
pub(crate) fn apply_hold(state: &mut State, slot: u32, record: &HoldRecord<'_>) {
    let reservation = record.reservation.as_str();
    let holds = &mut state.skus.get_mut(slot).holds;
    let before = if record.keeps_nothing() {
        holds.remove(reservation)
    } else {
        holds.put(record.to_static())
    };
    let index = &mut state.holds;
    if let Some(before) = before.as_ref().filter(|before| before.record.ended()) {
        index.ended.remove(&end_key(&before.record));
    }
    if !record.keeps_nothing() && record.ended() {
        index.ended.insert(end_key(record), slot);
    }
    touch_counted(state, slot, reservation, before.as_ref());
}

/// Counts a record among what changed, as a snapshot says, or that it is gone.
pub(crate) fn touch(state: &mut State, slot: u32, reservation: &str) {
    touch_counted(state, slot, reservation, None);
}

/// Counts a record, as it is now, or that it is gone, among what changed. What stood in its place before
/// knows what it counted for.
fn touch_counted(state: &mut State, slot: u32, reservation: &str, before: Option<&Kept>) {
    let names = state.skus.name(slot).len() + reservation.len();
    let holds = &mut state.skus.get_mut(slot).holds;
    let bytes = names + holds.get(reservation).map_or(0, HoldRecord::packed_bytes);
    let mut counted = before.map_or(0, |before| before.touched);
    let key = || (slot, reservation.into());
    state.holds.touched.count(&mut counted, bytes, key);
    if let Some(touched) = holds.touched_mut(reservation) {
        *touched = counted;
    }
}

/// Takes a record away, as a changelog says.
pub(crate) fn remove(state: &mut State, slot: u32, reservation: &str) {
    if let Some(before) = state.skus.get_mut(slot).holds.remove(reservation) {
        state.holds.ended.remove(&end_key(&before.record));
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
        let before = state.skus.get_mut(slot).holds.remove(&reservation);
        touch_counted(state, slot, &reservation, before.as_ref());
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

    /// By which number its ask waits, if it does.
    fn waits_since(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.since)
    }

    /// About how many bytes it takes in a compact format. This crate knows none: a text counts as long
    /// as it is, a line as its numbers mostly are.
    pub(crate) fn packed_bytes(&self) -> usize {
        let lines: usize = self
            .lines
            .iter()
            .map(|l| 10 + l.location.as_str().len())
            .sum();
        let waiting = self.waiting.as_ref().map_or(0, |w| 10 + 10 * w.lines.len());
        let rest = 2 * self.undecided.len() + 6 * self.shipped.len();
        20 + self.reservation.as_str().len() + lines + rest + waiting
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
        size_of::<Kept>()
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
