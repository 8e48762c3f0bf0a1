//! A decision under construction: what it has changed so far can be read back, the state cannot be
//! touched.

use std::borrow::Cow;

use crate::command::{Answer, Ask, AskKind, Stamped, Verdict};
use crate::decision::{
    Decision, LevelAfter, LineState, Movement, MovementKind, Outcome, Place, Reason, Resolved,
    Send, SendWhat,
};
use crate::hold::HoldRecord;
use crate::reservation::ReservationRecord;
use crate::sku::{Figures, Position, SkuState};
use crate::state::State;
use crate::values::{Location, Quantity, ReservationId, Sku, Time};

/// See the module's text.
pub(crate) struct Draft<'s, 'a> {
    pub(crate) state: &'s State,
    /// Where the input's record stands in its log.
    pub(crate) offset: i64,
    pub(crate) decision: Decision<'a>,
    sku: Option<(u32, &'s SkuState)>,
    /// Figures per location of the decision. Nearly every decision is about one.
    first: Option<Overlay<'s>>,
    more: Vec<Overlay<'s>>,
}

/// A location that the decision speaks of.
#[derive(Clone, Copy)]
pub(crate) struct Overlay<'s> {
    /// Its position as the state has it, if it exists.
    pub(crate) position: Option<&'s Position>,
    pub(crate) before: Figures,
    pub(crate) now: Figures,
}

impl<'s, 'a> Draft<'s, 'a> {
    /// The next decision of the partition, about nothing yet.
    pub(crate) fn new(state: &'s State, stamped: &Stamped<'a>) -> Self {
        let sku = stamped
            .input
            .sku()
            .and_then(|sku| state.skus.find(sku.as_str()));
        let sku = sku.map(|slot| (slot, state.skus.get(slot)));
        let at = state.log_time().max(stamped.at);
        let (name, content, input) = (stamped.name, stamped.content, stamped.input.clone());
        let mut decision = Decision::new(state.number() + 1, at, name, content, input);
        decision.decimals = sku.map_or(0, |(_, sku)| sku.decimals);
        Self {
            state,
            offset: stamped.offset,
            decision,
            sku,
            first: None,
            more: Vec::new(),
        }
    }

    /// Log time of this decision.
    pub(crate) fn at(&self) -> Time {
        self.decision.at
    }

    /// Its number in this partition.
    pub(crate) fn number(&self) -> u64 {
        self.decision.number
    }

    /// The SKU that the input is about, if it exists.
    pub(crate) fn sku(&self) -> Option<&'s SkuState> {
        self.sku.map(|(_, sku)| sku)
    }

    /// Its slot in the table, if it exists.
    pub(crate) fn sku_slot(&self) -> Option<u32> {
        self.sku.map(|(slot, _)| slot)
    }

    /// The decimals of the SKU's quantities.
    pub(crate) fn decimals(&self) -> u8 {
        self.decision.decimals
    }

    /// The index of that location in the decision, which is added if it is new to it.
    ///
    /// # Panics
    /// Beyond 256 locations; the edge caps the lines of a reservation at 100.
    pub(crate) fn location(&mut self, name: Location<'a>) -> u8 {
        let known = self.decision.locations.iter().position(|l| *l == name);
        let index = known.unwrap_or(self.decision.locations.len());
        if known.is_none() {
            let position = self.position(name.as_str());
            let before = position.map(Position::figures).unwrap_or_default();
            let overlay = Overlay {
                position,
                before,
                now: before,
            };
            if self.decision.locations.is_empty() {
                // Exactly one: a decision about more is rare.
                self.decision.locations.reserve_exact(1);
                self.first = Some(overlay);
            } else {
                self.more.push(overlay);
            }
            self.decision.locations.push(name);
        }
        u8::try_from(index).expect("a decision speaks of at most 256 locations")
    }

    /// The SKU's position at a location, as the state has it.
    pub(crate) fn position(&self, location: &str) -> Option<&'s Position> {
        let (_, sku) = self.sku?;
        match sku.positions.as_slice() {
            // Comparing one name is cheaper than looking it up.
            [one] => (self.state.skus.locations.get(one.location) == location).then_some(one),
            _ => sku
                .positions
                .find(self.state.skus.locations.find(location)?),
        }
    }

    pub(crate) fn overlay(&self, location: u8) -> &Overlay<'s> {
        match usize::from(location).checked_sub(1) {
            None => self.first.as_ref(),
            Some(i) => self.more.get(i),
        }
        .expect("locations are added before they are used")
    }

    fn overlay_mut(&mut self, location: u8) -> &mut Overlay<'s> {
        match usize::from(location).checked_sub(1) {
            None => self.first.as_mut(),
            Some(i) => self.more.get_mut(i),
        }
        .expect("locations are added before they are used")
    }

    /// The figures there, with what this draft has moved.
    pub(crate) fn figures(&self, location: u8) -> Figures {
        self.overlay(location).now
    }

    /// The figures at a location by name, which need not be one of the decision's.
    pub(crate) fn figures_at(&self, location: &str) -> Figures {
        let known = self
            .decision
            .locations
            .iter()
            .position(|l| l.as_str() == location);
        match known.and_then(|i| u8::try_from(i).ok()) {
            Some(index) => self.figures(index),
            None => self
                .position(location)
                .map(Position::figures)
                .unwrap_or_default(),
        }
    }

    /// Whether that location is known here, before this decision: some SKU of this partition has a
    /// level there. Whether one of another partition has, its owner alone knows, and to ask it would be
    /// a lookup. A level is never lost, and names of locations are kept for levels alone: so a state
    /// put together from changelog and snapshot knows the same ones as the live one.
    pub(crate) fn knows_location(&self, name: &str) -> bool {
        self.state.skus.locations.find(name).is_some()
    }

    /// Whether the SKU gets a level by this decision at a location where it had none.
    pub(crate) fn names_a_location_first(&self) -> bool {
        let mut overlays = self.first.iter().chain(&self.more);
        overlays.any(|overlay| overlay.position.is_none())
    }

    /// Every location where the SKU has a level before this decision, with its figures as this draft
    /// has them, in byte order.
    pub(crate) fn levels(&self) -> Vec<(&'s str, Figures)> {
        let positions = self
            .sku
            .map_or(&[][..], |(_, sku)| sku.positions.as_slice());
        let names = &self.state.skus.locations;
        let mut levels: Vec<_> = positions
            .iter()
            .map(|p| (names.get(p.location), Figures::default()))
            .collect();
        levels.sort_unstable_by_key(|(name, _)| *name);
        for (name, figures) in &mut levels {
            *figures = self.figures_at(name);
        }
        levels
    }

    /// Moves a quantity, 0 or more, from one place to another.
    ///
    /// # Errors
    /// [`Reason::Overflow`] when a figure would leave its range; the draft must then be given up.
    pub(crate) fn move_(
        &mut self,
        from: Place,
        to: Place,
        quantity: Quantity,
        kind: MovementKind,
    ) -> Result<(), Reason> {
        assert!(
            quantity >= Quantity::ZERO,
            "a movement has a direction, not a sign"
        );
        if quantity.is_zero() {
            return Ok(());
        }
        let out = quantity.checked_neg().ok_or(Reason::Overflow)?;
        self.enter(from, out)?;
        self.enter(to, quantity)?;
        if self.decision.movements.is_empty() {
            // Exactly one: what most facts need.
            self.decision.movements.reserve_exact(1);
        }
        self.decision.movements.push(Movement {
            from,
            to,
            quantity,
            kind,
        });
        Ok(())
    }

    /// Moves a signed quantity: below 0 it goes the other way.
    ///
    /// # Errors
    /// As [`Draft::move_`].
    pub(crate) fn shift(
        &mut self,
        from: Place,
        to: Place,
        quantity: i64,
        kind: MovementKind,
    ) -> Result<(), Reason> {
        if quantity >= 0 {
            self.move_(from, to, Quantity(quantity), kind)
        } else {
            let back = quantity.checked_neg().ok_or(Reason::Overflow)?;
            self.move_(to, from, Quantity(back), kind)
        }
    }

    fn enter(&mut self, place: Place, quantity: Quantity) -> Result<(), Reason> {
        let Some(location) = place.location() else {
            return Ok(());
        };
        let overlay = self.overlay_mut(location);
        overlay.now = overlay
            .now
            .entered(place, quantity.0)
            .ok_or(Reason::Overflow)?;
        Ok(())
    }

    /// Sends an ask to the owner of the SKU, numbered.
    pub(crate) fn send_ask(
        &mut self,
        reservation: ReservationId<'a>,
        sku: Sku<'a>,
        step: u64,
        kind: AskKind<'a>,
    ) {
        let home = self.state.home();
        let to = (home.partition_of)(sku.as_str().as_bytes(), home.partitions);
        let number = self.next_number(to);
        let ask = Ask {
            from: home.partition,
            number,
            reservation,
            sku,
            step,
            kind,
        };
        self.decision.sends.push(Send {
            to,
            what: SendWhat::Ask(ask),
        });
    }

    /// Sends an answer about a SKU of this partition to the owner of the reservation, numbered.
    pub(crate) fn send_answer(
        &mut self,
        reservation: ReservationId<'a>,
        sku: Sku<'a>,
        step: Option<u64>,
        lines: Vec<LineState<'a>>,
        verdict: Verdict<'a>,
    ) {
        let home = self.state.home();
        let to = (home.partition_of)(reservation.as_str().as_bytes(), home.partitions);
        let number = self.next_number(to);
        let (from, decimals) = (home.partition, self.decision.decimals);
        let answer = Answer {
            from,
            number,
            decision: self.number(),
            reservation,
            sku,
            decimals,
            step,
            lines,
            verdict,
        };
        let what = SendWhat::Answer(answer);
        push_few(&mut self.decision.sends, Send { to, what });
    }

    /// The next number towards that partition.
    fn next_number(&self, to: u16) -> u64 {
        let sent = self.decision.sends.iter().rev().find(|send| send.to == to);
        sent.map_or_else(|| self.state.peer(to).sent, |send| send.what.number()) + 1
    }

    /// States a reservation's lines on this SKU anew.
    pub(crate) fn hold(&mut self, record: HoldRecord<'a>) {
        let known = self
            .decision
            .holds
            .iter_mut()
            .find(|h| h.reservation == record.reservation);
        match known {
            Some(known) => *known = record,
            None => push_few(&mut self.decision.holds, record),
        }
    }

    /// A reservation's lines on this SKU, as this draft states them, else as the state has them.
    pub(crate) fn hold_of(&self, reservation: &str) -> Option<Cow<'_, HoldRecord<'a>>> {
        let mut own = self.decision.holds.iter();
        if let Some(own) = own.find(|h| h.reservation.as_str() == reservation) {
            return Some(Cow::Borrowed(own));
        }
        let (_, sku) = self.sku?;
        sku.holds.get(reservation).map(Cow::Borrowed)
    }

    /// States a reservation anew.
    pub(crate) fn reservation(&mut self, record: ReservationRecord<'a>) {
        let known = self
            .decision
            .reservations
            .iter_mut()
            .find(|r| r.id == record.id);
        match known {
            Some(known) => *known = record,
            None => push_few(&mut self.decision.reservations, record),
        }
    }

    /// A reservation of this partition, as this draft states it, else as the state has it.
    pub(crate) fn reservation_of(&self, id: &str) -> Option<Cow<'_, ReservationRecord<'a>>> {
        let mut own = self.decision.reservations.iter();
        if let Some(own) = own.find(|r| r.id.as_str() == id) {
            return Some(Cow::Borrowed(own));
        }
        self.state.reservations.get(id).map(Cow::Borrowed)
    }

    /// Gives an earlier command of this partition its outcome.
    pub(crate) fn resolve(&mut self, resolved: Resolved<'a>) {
        push_few(&mut self.decision.resolved, resolved);
    }

    /// Gives the input's own command its outcome.
    pub(crate) fn outcome(&mut self, outcome: Outcome<'a>) {
        self.decision.outcome = Some(outcome);
    }

    /// The decision, with the levels after it.
    pub(crate) fn finish(mut self) -> Decision<'a> {
        for (index, overlay) in self.first.iter().chain(&self.more).enumerate() {
            if overlay.before == overlay.now {
                continue;
            }
            if self.decision.levels.is_empty() {
                self.decision.levels.reserve_exact(1);
            }
            let now = overlay.now;
            self.decision.levels.push(LevelAfter {
                location: u8::try_from(index).expect("a decision speaks of at most 256 locations"),
                sequence: overlay.position.map_or(0, |p| p.sequence) + 1,
                on_hand: now.on_hand,
                reserved: now.reserved,
                committed: now.committed,
                damaged: now.damaged,
                quality_control: now.quality_control,
            });
        }
        self.decision
    }
}

/// Adds to a list that mostly stays at one or two: they are long, and a list makes room for four.
fn push_few<T>(list: &mut Vec<T>, one: T) {
    if list.len() < 2 {
        list.reserve_exact(1);
    }
    list.push(one);
}
