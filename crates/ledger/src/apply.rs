//! The only change of state. What a decision states is put in place; nothing is judged again.

use crate::command::{Body, Command, Figure, Input};
use crate::decision::{CountEnd, CountNote, Decision, Movement, MovementKind, Outcome, Place};
use crate::fold::{Bounds, Count};
use crate::hold;
use crate::reservation;
use crate::sku::{Figures, Position};
use crate::state::State;
use crate::values::Time;

impl State {
    /// The only change of state, live and in restore. Never calls [`decide`](crate::decide).
    ///
    /// # Panics
    /// When the decision is not the next one of this partition, or does not fit the state: a bug or
    /// a damaged log.
    pub fn apply(&mut self, decision: &Decision<'_>) {
        assert_eq!(
            decision.number,
            self.number + 1,
            "decisions are applied in order, each once"
        );
        assert!(!decision.gap, "a decision after a gap is never applied");
        assert!(decision.at >= self.log_time, "log time never falls");
        self.number = decision.number;
        self.log_time = decision.at;
        match &decision.input {
            Input::Ask(ask) => self.received(ask.from, ask.number),
            Input::Answer(answer) => self.received(answer.from, answer.number),
            Input::Command(_) | Input::Tick => {}
        }
        for send in &decision.sends {
            let number = send.what.number();
            let peer = self
                .peers
                .get_mut(usize::from(send.to))
                .expect("sends go to a partition");
            assert_eq!(
                number,
                peer.sent + 1,
                "records to a partition are numbered without a gap"
            );
            peer.sent = number;
        }
        let slot = self.apply_stock(decision);
        for reservation in &decision.reservations {
            self.reservations.apply(reservation);
        }
        if let Input::Command(command) = &decision.input {
            self.remember(decision, command, slot);
        }
        for resolved in &decision.resolved {
            match resolved.outcome {
                // What is invalid may be put right under its name, also when that is found late.
                Outcome::Invalid(_) => self.ids.free(resolved.name),
                // A retry: the name is its first's.
                Outcome::Duplicate { .. } => {}
                _ => self.ids.resolve(resolved.name, decision.number),
            }
        }
        let oldest = decision.at.plus(-self.settings.ids_age_ms);
        self.ids.forget(oldest, self.settings.ids_max);
        hold::forget(self);
        reservation::forget(self);
    }

    fn received(&mut self, from: u16, number: u64) {
        let peer = self
            .peers
            .get_mut(usize::from(from))
            .expect("records come from a partition");
        peer.received = peer.received.max(number);
    }

    /// Levels, folds and holds of the SKU that the decision is about.
    fn apply_stock(&mut self, decision: &Decision<'_>) -> Option<u32> {
        let name = decision.input.sku()?.as_str();
        let item = match &decision.input {
            Input::Command(command) => item_of(command).filter(|_| applied(decision)),
            _ => None,
        };
        let changes = !decision.movements.is_empty()
            || decision.count.is_some()
            || !decision.holds.is_empty()
            || item.is_some();
        if !changes {
            return self.skus.find(name);
        }
        let (slot, new) = self.skus.entry(name);
        if new || item.is_some() {
            self.touch_sku(slot);
        }
        if let Some((unit, text)) = item {
            let sku = self.skus.get_mut(slot);
            sku.decimals = decision.decimals;
            if unit.is_some() || text.is_some() {
                let extra = sku.extra.get_or_insert_default();
                extra.unit = unit.map(Into::into).or(extra.unit.take());
                extra.name = text.map(Into::into).or(extra.name.take());
            }
        }
        for index in 0..decision.locations.len() {
            let index = u8::try_from(index).expect("a decision speaks of at most 256 locations");
            self.apply_position(decision, slot, index);
        }
        if let (Some(_), Some(at)) = (&decision.count, decision.event_time) {
            let extra = self.skus.get_mut(slot).extra.get_or_insert_default();
            extra.newest_count = extra.newest_count.max(Some(at));
            self.touch_sku(slot);
        }
        for hold in &decision.holds {
            hold::apply_hold(self, slot, hold);
        }
        Some(slot)
    }

    fn apply_position(&mut self, decision: &Decision<'_>, slot: u32, index: u8) {
        let name = decision
            .locations
            .get(usize::from(index))
            .expect("it is one of them")
            .as_str();
        let count = decision.count.filter(|count| count.location == index);
        let here =
            |m: &Movement| m.from.location() == Some(index) || m.to.location() == Some(index);
        if count.is_none() && !decision.movements.iter().any(here) {
            return;
        }
        let bounds = Bounds {
            horizon_ms: self.settings.horizon_ms,
            times_max: self.settings.times_max,
        };
        // Comparing one name is cheaper than looking it up.
        let known = match self.skus.get(slot).positions.as_slice() {
            [one] if self.skus.locations.get(one.location) == name => Some(one.location),
            _ => None,
        };
        let location = known.unwrap_or_else(|| self.skus.locations.intern(name));
        let (position, new) = self.skus.get_mut(slot).positions.entry(location);
        let before = Marks::of(position);
        let figures = position.figures();
        let mut sum = Some(figures);
        for movement in decision.movements.iter().filter(|m| here(m)) {
            let quantity = movement.quantity.0;
            for (place, signed) in [(movement.from, -quantity), (movement.to, quantity)] {
                if place.location() == Some(index) {
                    sum = sum.and_then(|figures| figures.entered(place, signed));
                }
            }
            fold(position, decision, movement, index);
        }
        if let Some(note) = count.filter(|note| note.end == CountEnd::Applied) {
            position.keep_count(count_of(decision, &note));
        }
        let level = decision.levels.iter().find(|level| level.location == index);
        let after = level.map_or(figures, |level| Figures {
            on_hand: level.on_hand,
            reserved: level.reserved,
            committed: level.committed,
            damaged: level.damaged,
            quality_control: level.quality_control,
        });
        assert_eq!(sum, Some(after), "a level is what moved into it");
        if let Some(level) = level {
            assert_eq!(
                level.sequence,
                position.sequence + 1,
                "sequences rise by one"
            );
            position.sequence = level.sequence;
            position.number = decision.number;
            position.at = decision.at;
            position.set_figures(after, decision.at);
        }
        position.settle(bounds);
        let after = Marks::of(position);
        self.note(slot, before, after);
        self.positions += u64::from(new);
        self.touch_position(slot, location);
    }

    /// Keeps the figures of the whole partition by what changed at one position.
    pub(crate) fn note(&mut self, slot: u32, before: Marks, after: Marks) {
        let change = |n: &mut u64, before: bool, after: bool| {
            *n = *n + u64::from(after) - u64::from(before);
        };
        if before == after {
            return;
        }
        change(&mut self.oversold, before.oversold, after.oversold);
        change(&mut self.negative, before.negative, after.negative);
        if before.conflict != after.conflict {
            let conflicts = self.conflicts.entry(slot).or_default();
            *conflicts = *conflicts + u32::from(after.conflict) - u32::from(before.conflict);
            if *conflicts == 0 {
                self.conflicts.remove(&slot);
            }
        }
    }

    /// A command's name, so that it is known when it comes again.
    fn remember(&mut self, decision: &Decision<'_>, command: &Command<'_>, slot: Option<u32>) {
        let (pending, may_be_known) = match &decision.outcome {
            // A retry that waits for the first's outcome, or that could not even wait.
            None => (true, true),
            Some(Outcome::Rejected(_) | Outcome::Parked { .. }) => (false, true),
            // What a name says comes first: whoever got so far had a new one.
            Some(Outcome::Applied(_) | Outcome::Granted) => (false, false),
            // What is invalid may be put right under its name.
            Some(Outcome::Duplicate { .. } | Outcome::Invalid(_)) => return,
        };
        if let (Some(seq), Some(slot)) = (command.seq, slot) {
            self.touch_sku(slot);
            self.skus.set_seq(slot, command.source.as_str(), seq);
        } else {
            let (name, content) = (decision.name, decision.content);
            let oldest = decision.at.plus(-self.settings.ids_age_ms);
            if may_be_known && self.ids.get(name, oldest).is_some() {
                return;
            }
            self.ids
                .insert(name, content, decision.number, decision.at, pending);
        }
    }
}

/// What a position adds to the figures of its partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    oversold: bool,
    negative: bool,
    conflict: bool,
}

impl Marks {
    pub(crate) fn of(position: &Position) -> Self {
        Self {
            oversold: position.oversold(),
            negative: position.on_hand < 0,
            conflict: position.in_conflict(),
        }
    }
}

fn applied(decision: &Decision<'_>) -> bool {
    matches!(decision.outcome, Some(Outcome::Applied(_)))
}

/// The unit and name that an `item` command declares.
fn item_of<'c>(command: &'c Command<'_>) -> Option<(Option<&'c str>, Option<&'c str>)> {
    match &command.body {
        Body::Item { unit, name, .. } => Some((unit.as_deref(), name.as_deref())),
        _ => None,
    }
}

/// What a movement does to the fold of the position at that location of the decision.
fn fold(position: &mut Position, decision: &Decision<'_>, movement: &Movement, index: u8) {
    let figures = [
        (Figure::OnHand, None),
        (Figure::Damaged, Some(Place::Damaged(index))),
        (Figure::QualityControl, Some(Place::QualityControl(index))),
    ];
    let within = |place: Place, of: Option<Place>| match of {
        None => place.location() == Some(index),
        Some(of) => place == of,
    };
    match movement.kind {
        MovementKind::Fact => {
            let at = decision.event_time.expect("a fact has an event time");
            for (figure, of) in figures {
                let (out, into) = (within(movement.from, of), within(movement.to, of));
                if out != into {
                    let quantity = movement.quantity.0;
                    let signed = if into { quantity } else { -quantity };
                    position.fold_mut().moved(figure, at, signed);
                }
            }
        }
        MovementKind::Refold(figure, at) => {
            let signed = correction(movement, figure);
            position.fold_mut().refold(figure, at, signed);
        }
        // The count itself carries it.
        MovementKind::Correction(_) => {}
        // Holds have no event time.
        MovementKind::Hold => {}
    }
}

/// By how much a movement of a correction raises the figure.
fn correction(movement: &Movement, figure: Figure) -> i64 {
    let raises = match figure {
        Figure::OnHand => matches!(movement.to, Place::Available(_)),
        Figure::Damaged => matches!(movement.to, Place::Damaged(_)),
        Figure::QualityControl => matches!(movement.to, Place::QualityControl(_)),
    };
    if raises {
        movement.quantity.0
    } else {
        -movement.quantity.0
    }
}

fn count_of(decision: &Decision<'_>, note: &CountNote) -> Count {
    let Input::Command(command) = &decision.input else {
        unreachable!("only a command counts");
    };
    let counted_at = decision.event_time.expect("a count has an event time");
    let at: Time = note.merged_to.unwrap_or(counted_at);
    let correction = note.counted.checked_sub(note.expected);
    Count {
        at,
        counted_at,
        figure: note.figure,
        opening: note.opening,
        counted: note.counted,
        correction: correction.expect("the decision was checked for overflow").0,
        source: command.source.as_str().into(),
        id: command.id.as_str().into(),
    }
}
