//! Changes of levels: what feeds and histories show of a decision.

use onhand_ledger::{AskKind, Body, Decision, Input, LevelAfter, MovementKind, Outcome, Place};

use super::level::{Figures, LevelView};
use super::outcome::{self, Origin, sku_of};
use super::write::{Object, list};
use crate::position;

/// The change of one level by a decision.
#[derive(Debug)]
pub(crate) struct Change<'d, 'a> {
    pub(crate) decision: &'d Decision<'a>,
    pub(crate) origin: Origin,
    pub(crate) sku: &'d str,
    pub(crate) location: &'d str,
    pub(crate) level: &'d LevelAfter,
}

/// The changes of a decision in its order: one for each location where a figure changed.
pub(crate) fn changes<'d, 'a>(
    decision: &'d Decision<'a>,
    origin: Origin,
) -> impl Iterator<Item = Change<'d, 'a>> {
    let sku = sku_of(&decision.input).unwrap_or_default();
    decision.levels.iter().map(move |level| {
        let location = decision.locations.get(usize::from(level.location));
        Change {
            decision,
            origin,
            sku,
            location: location.map_or("", |location| location.as_str()),
            level,
        }
    })
}

/// An entry of the ledger at one location, also one that changed no figure: a fact that a count had
/// already seen, or a count that another one overrules.
#[derive(Debug)]
pub(crate) struct Entry<'d, 'a> {
    pub(crate) decision: &'d Decision<'a>,
    pub(crate) origin: Origin,
    pub(crate) sku: &'d str,
    pub(crate) location: &'d str,
    /// Index of the location.
    pub(crate) index: u8,
    /// `None` where no figure changed.
    pub(crate) level: Option<&'d LevelAfter>,
}

/// The entries of a decision: one for each location that it moved something at, or that it counted.
pub(crate) fn entries<'d, 'a>(
    decision: &'d Decision<'a>,
    origin: Origin,
) -> impl Iterator<Item = Entry<'d, 'a>> {
    let sku = sku_of(&decision.input).unwrap_or_default();
    (0u8..)
        .zip(&decision.locations)
        .filter_map(move |(index, location)| {
            let moved = decision
                .movements
                .iter()
                .any(|movement| is_at(movement.from, index) || is_at(movement.to, index));
            let counted = decision.count.is_some_and(|count| count.location == index);
            (moved || counted).then(|| Entry {
                decision,
                origin,
                sku,
                location: location.as_str(),
                index,
                level: decision.levels.iter().find(|level| level.location == index),
            })
        })
}

fn is_at(place: Place, index: u8) -> bool {
    match place {
        Place::Available(at)
        | Place::Reserved(at)
        | Place::Committed(at)
        | Place::Damaged(at)
        | Place::QualityControl(at) => at == index,
        Place::Supplier | Place::Customer | Place::Loss => false,
    }
}

/// Differences of the figures at one location.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Delta {
    pub(crate) available: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
}

impl Delta {
    /// What the decision moved into and out of that location.
    pub(crate) fn of(decision: &Decision<'_>, location: u8) -> Self {
        let mut delta = Self::default();
        for movement in &decision.movements {
            delta.add(
                movement.from,
                location,
                movement.quantity.0.saturating_neg(),
            );
            delta.add(movement.to, location, movement.quantity.0);
        }
        delta
    }

    pub(crate) fn add(&mut self, place: Place, location: u8, quantity: i64) {
        let figure = match place {
            Place::Available(at) if at == location => &mut self.available,
            Place::Reserved(at) if at == location => &mut self.reserved,
            Place::Committed(at) if at == location => &mut self.committed,
            Place::Damaged(at) if at == location => &mut self.damaged,
            Place::QualityControl(at) if at == location => &mut self.quality_control,
            _ => return,
        };
        *figure = figure.saturating_add(quantity);
    }

    pub(crate) fn on_hand(&self) -> i64 {
        self.available
            .saturating_add(self.reserved)
            .saturating_add(self.committed)
            .saturating_add(self.damaged)
            .saturating_add(self.quality_control)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, decimals: u8) {
        let mut object = Object::open(out);
        for (key, value) in [
            ("on_hand", self.on_hand()),
            ("available", self.available),
            ("reserved", self.reserved),
            ("committed", self.committed),
            ("damaged", self.damaged),
            ("quality_control", self.quality_control),
        ] {
            if value != 0 {
                object.amount(key, value, decimals);
            }
        }
        object.close();
    }
}

impl<'d> Change<'d, '_> {
    /// The level that it left.
    pub(crate) fn level_view(&self) -> LevelView<'d> {
        LevelView {
            sku: self.sku,
            location: self.location,
            decimals: self.decision.decimals,
            figures: self.level.into(),
            sequence: self.level.sequence,
            partition: self.origin.partition,
            number: self.decision.number,
            at: self.decision.at,
        }
    }

    /// Writes the change. `position` is the feed's token behind it, which each feed makes for itself;
    /// `None` within a snapshot, whose lines cannot be resumed from.
    pub(crate) fn write(&self, out: &mut Vec<u8>, position: Option<&[u8]>) {
        let level = |out: &mut Vec<u8>| self.level_view().write(out, self.origin.epoch);
        self.write_around(out, position, level);
    }

    /// The same with the level that it left as it was rendered already.
    pub(crate) fn write_with(&self, out: &mut Vec<u8>, position: &[u8], level: &[u8]) {
        self.write_around(out, Some(position), |out| out.extend_from_slice(level));
    }

    fn write_around(
        &self,
        out: &mut Vec<u8>,
        position: Option<&[u8]>,
        level: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut object = Object::open(out);
        if let Some(token) = position {
            let place = object.key("position");
            place.push(b'"');
            place.extend_from_slice(token);
            place.push(b'"');
        }
        object
            .text("sku", self.sku)
            .text("location", self.location)
            .uint("sequence", self.level.sequence);
        write_cause(object.key("cause"), &self.decision.input);
        let delta = Delta::of(self.decision, self.level.location);
        delta.write(object.key("delta"), self.decision.decimals);
        level(object.key("level"));
        object.time("at", self.decision.at);
        object.close();
    }
}

impl Entry<'_, '_> {
    /// Writes the history's line: three times, what moved, the balance after, and why. `balance` is
    /// `None` where decisions are not held back to the last that changed the level.
    pub(crate) fn write(&self, out: &mut Vec<u8>, balance: Option<Figures>) {
        let decision = self.decision;
        let mut object = Object::open(out);
        object.text("sku", self.sku).text("location", self.location);
        if let Some(level) = self.level {
            object.uint("sequence", level.sequence);
        }
        object
            .time("occurred_at", decision.event_time.unwrap_or(decision.at))
            // Intake stamps a record when it is appended, and it is decided in that order: its log
            // time is both.
            .time("received_at", decision.at)
            .time("applied_at", decision.at);
        write_cause(object.key("cause"), &decision.input);
        let delta = Delta::of(decision, self.index);
        delta.write(object.key("delta"), decision.decimals);
        if let Some(figures) = balance {
            let mut balance = Object::open(object.key("balance"));
            figures.write(&mut balance, decision.decimals);
            balance.close();
        }
        if let Some(Outcome::Applied(notes)) = &decision.outcome
            && notes.absorbed
        {
            object.flag("absorbed", true);
        }
        if let Some(count) = decision.count.filter(|count| count.location == self.index) {
            let mut counted = Object::open(object.key("count"));
            outcome::count_members(&mut counted, &count, decision.decimals);
            counted.close();
        }
        self.write_corrections(&mut object);
        if let Input::Command(command) = &decision.input {
            object
                .text("reason", command.reason.as_deref().unwrap_or("other"))
                .some_text("note", command.note.as_deref())
                .some_text("reference", command.reference.as_deref());
            if let Some(data) = &command.data {
                object.raw("data", data.as_bytes());
            }
        }
        let token = object.key("position");
        token.push(b'"');
        position::write_of(
            token,
            self.origin.epoch,
            self.origin.partition,
            decision.number,
        );
        token.push(b'"');
        object.close();
    }

    /// What counts made of it: their corrections, at the times they were taken.
    fn write_corrections(&self, object: &mut Object<'_>) {
        let corrections = self.decision.movements.iter().filter_map(|movement| {
            let (figure, at) = match movement.kind {
                MovementKind::Correction(figure) => (figure, self.decision.event_time),
                MovementKind::Refold(figure, at) => (figure, Some(at)),
                MovementKind::Fact | MovementKind::Hold => return None,
            };
            let here = is_at(movement.from, self.index) || is_at(movement.to, self.index);
            here.then_some((movement, figure, at))
        });
        let mut corrections = corrections.peekable();
        if corrections.peek().is_none() {
            return;
        }
        list(
            object.key("corrections"),
            corrections,
            |out, (movement, figure, at)| {
                let mut delta = Delta::default();
                let quantity = movement.quantity.0;
                delta.add(movement.from, self.index, quantity.saturating_neg());
                delta.add(movement.to, self.index, quantity);
                let mut object = Object::open(out);
                object.text("state", outcome::figure(figure));
                if let Some(at) = at {
                    object.time("counted_at", at);
                }
                delta.write(object.key("delta"), self.decision.decimals);
                object.close();
            },
        );
    }
}

/// Who and what caused it. What a reservation did is caused by the reservation: the commands that are
/// behind it stand in its own partition.
pub(crate) fn write_cause(out: &mut Vec<u8>, input: &Input<'_>) {
    let mut object = Object::open(out);
    match input {
        Input::Command(command) => {
            object
                .text("source", command.source.as_str())
                .text("id", command.id.as_str())
                .text("type", body_type(&command.body));
            if let Body::Ship {
                reservation: Some(reservation),
                ..
            } = &command.body
            {
                object.text("reservation", reservation.as_str());
            }
        }
        Input::Ask(ask) => {
            let kind = match ask.kind {
                AskKind::Hold {
                    committed: true, ..
                } => "commit",
                AskKind::Hold { .. } | AskKind::Keep => "reserve",
                AskKind::Confirm { .. } => "confirm",
                AskKind::GiveBack { .. } | AskKind::Restore { .. } => "give_back",
            };
            object
                .text("source", "onhand")
                .text("id", ask.reservation.as_str())
                .text("type", kind)
                .text("reservation", ask.reservation.as_str());
        }
        Input::Answer(answer) => {
            object
                .text("source", "onhand")
                .text("id", answer.reservation.as_str())
                .text("type", "answer")
                .text("reservation", answer.reservation.as_str());
        }
        Input::Tick => {
            object
                .text("source", "onhand")
                .text("id", "")
                .text("type", "tick");
        }
    }
    object.close();
}

/// The word for a command's type.
pub(crate) fn body_type(body: &Body<'_>) -> &'static str {
    match body {
        Body::Receive(_) => "receive",
        Body::Ship { .. } => "ship",
        Body::Return(_) => "return",
        Body::Adjust(_) => "adjust",
        Body::Move { .. } => "move",
        Body::Count { .. } => "count",
        Body::Set { .. } => "set",
        Body::Item { .. } => "item",
        Body::Commit { .. } => "commit",
        Body::Reserve { .. } => "reserve",
        Body::Confirm { .. } => "confirm",
        Body::Release { .. } => "release",
        Body::Extend { .. } => "extend",
    }
}
