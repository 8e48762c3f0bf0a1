//! Levels, recomputed: what each input must move, what each decision says it moved, and what every
//! figure must be after it.

use crate::fold::{CountKey, Fold};
use crate::pack::{Decision, fingerprint};
use crate::report::{About, Findings, Invariant};
use crate::table::Table;
use crate::wire::{
    Amount, AskKind, Body, Command, CountEnd, Figure, Input, Movement, MovementKind, Outcome,
    Place, StateName,
};

/// How far `occurred_at` may be ahead of intake before the time of intake is taken instead, ms.
const CLOCK_AHEAD_MS: i64 = 60_000;
/// The longest span that counting times are merged into, ms.
const SPAN_MS: i64 = 60_000;

/// The quantities of all states at one position. Wide, so that no sum of a broken log overflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) available: i128,
    pub(crate) reserved: i128,
    pub(crate) committed: i128,
    pub(crate) damaged: i128,
    pub(crate) quality_control: i128,
}

impl Figures {
    pub(crate) fn on_hand(&self) -> i128 {
        self.available + self.reserved + self.committed + self.damaged + self.quality_control
    }

    /// What a request may take: a negative damaged or quality control counts as 0.
    fn grantable(&self) -> i128 {
        self.available + self.damaged.min(0) + self.quality_control.min(0)
    }

    fn of(&self, figure: Figure) -> i128 {
        match figure {
            Figure::OnHand => self.on_hand(),
            Figure::Damaged => self.damaged,
            Figure::QualityControl => self.quality_control,
        }
    }

    fn enter(&mut self, place: Place, quantity: i128) {
        match place {
            Place::Supplier | Place::Customer | Place::Loss => {}
            Place::Available(_) => self.available += quantity,
            Place::Reserved(_) => self.reserved += quantity,
            Place::Committed(_) => self.committed += quantity,
            Place::Damaged(_) => self.damaged += quantity,
            Place::QualityControl(_) => self.quality_control += quantity,
        }
    }
}

const FIGURES: [Figure; 3] = [Figure::OnHand, Figure::Damaged, Figure::QualityControl];

/// A SKU at a location.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    pub(crate) now: Figures,
    pub(crate) sequence: u64,
    /// The number of the decision that changed it last.
    pub(crate) number: u64,
    /// What the open holds at it add up to.
    pub(crate) held_reserved: i128,
    pub(crate) held_committed: i128,
    folds: [Fold; 3],
}

impl Position {
    fn fold(&mut self, figure: Figure) -> &mut Fold {
        let [on_hand, damaged, quality_control] = &mut self.folds;
        match figure {
            Figure::OnHand => on_hand,
            Figure::Damaged => damaged,
            Figure::QualityControl => quality_control,
        }
    }

    pub(crate) fn inexact(&self) -> u64 {
        self.folds.iter().map(|fold| u64::from(fold.inexact)).sum()
    }
}

/// What is known of a SKU beside its positions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sku {
    pub(crate) decimals: u8,
    has_entries: bool,
    newest_count: Option<i64>,
}

/// All levels of a partition.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    pub(crate) skus: Table<Sku>,
    pub(crate) positions: Table<Position>,
}

/// What an applied fact must move: from where, to where, how much.
struct Effect {
    from: Place,
    to: Place,
    quantity: i128,
}

/// The fingerprint of a position.
pub(crate) fn position_key(sku: &str, location: &str) -> u128 {
    fingerprint(&[sku.as_bytes(), location.as_bytes()])
}

pub(crate) fn sku_key(sku: &str) -> u128 {
    fingerprint(&[sku.as_bytes()])
}

impl Stock {
    pub(crate) fn position(&mut self, sku: &str, location: &str) -> &mut Position {
        self.positions
            .entry(position_key(sku, location))
            .or_default()
    }

    /// Checks what a decision says of stock, and takes it over.
    pub(crate) fn take(&mut self, decision: &Decision<'_>, findings: &mut Findings) {
        findings.report.figures.movements += decision.movements.len() as u64;
        let Some(sku) = decision.sku() else {
            if !decision.movements.is_empty() || !decision.levels.is_empty() {
                let what = "it is about no SKU, and yet something moved".to_owned();
                findings.add(Invariant::Conservation, About::default(), what);
            }
            return;
        };
        let known = self.skus.get(&sku_key(sku)).copied().unwrap_or_default();
        let item = self.take_item(decision, sku, known, findings);
        let effect = self.effect_of(decision, sku, known, findings);
        if !decision.has_stock {
            return;
        }
        if !item && decision.decimals != known.decimals {
            let what = format!(
                "the item has {} decimals, the decision says {}",
                known.decimals, decision.decimals
            );
            findings.add(Invariant::WholeUnits, About::sku(sku), what);
        }
        if !locations_fit(decision) {
            let what =
                "a location stands twice in the list, or an index points behind it".to_owned();
            findings.add(Invariant::Bytes, About::sku(sku), what);
            return;
        }
        check_movements(decision, sku, effect.as_ref(), findings);
        if !decision.movements.is_empty() || decision.count.is_some() {
            self.skus.entry(sku_key(sku)).or_default().has_entries = true;
        }
        let time = self.check_event_time(decision, sku, known, findings);
        for index in 0..decision.locations.len() {
            let index = u8::try_from(index).expect("the list was checked");
            self.take_location(decision, sku, index, effect.as_ref(), time, findings);
        }
    }

    /// Whether it is an `item` that was applied.
    fn take_item(
        &mut self,
        decision: &Decision<'_>,
        sku: &str,
        known: Sku,
        findings: &mut Findings,
    ) -> bool {
        let (
            Input::Command(Command {
                body: Body::Item { decimals, .. },
                ..
            }),
            Some(Outcome::Applied(_)),
        ) = (&decision.input, &decision.outcome)
        else {
            return false;
        };
        let decimals = decimals.unwrap_or(known.decimals);
        if decimals != known.decimals && known.has_entries {
            let what = format!(
                "decimals changed from {} to {decimals} after the first entry",
                known.decimals
            );
            findings.add(Invariant::WholeUnits, About::sku(sku), what);
        }
        self.skus.entry(sku_key(sku)).or_default().decimals = decimals;
        true
    }

    /// What the decision's command must have moved, if it was applied.
    fn effect_of(
        &self,
        decision: &Decision<'_>,
        sku: &str,
        known: Sku,
        findings: &mut Findings,
    ) -> Option<Effect> {
        let Input::Command(command) = &decision.input else {
            return None;
        };
        if !matches!(decision.outcome, Some(Outcome::Applied(_))) {
            return None;
        }
        let mut units = |amount: Amount| {
            let units = amount.units(known.decimals);
            if units.is_none() {
                let what = format!(
                    "the quantity {} / 10^{} is no whole number of units of an item with {} \
                     decimals, and was applied",
                    amount.mantissa, amount.decimals, known.decimals
                );
                findings.add(Invariant::WholeUnits, About::sku(sku), what);
            }
            units
        };
        let place = |location: &str, state: StateName| {
            let index = decision.locations.iter().position(|l| *l == location)?;
            Some(Place::of(state, u8::try_from(index).ok()?))
        };
        let effect = match &command.body {
            Body::Receive(fact) => {
                let quantity = units(fact.quantity)?;
                place(fact.location, fact.state).map(|to| Effect {
                    from: Place::Supplier,
                    to,
                    quantity,
                })
            }
            Body::Return(fact) => {
                let quantity = units(fact.quantity)?;
                place(fact.location, fact.state).map(|to| Effect {
                    from: Place::Customer,
                    to,
                    quantity,
                })
            }
            Body::Ship { fact, .. } => {
                let quantity = units(fact.quantity)?;
                place(fact.location, fact.state).map(|from| Effect {
                    from,
                    to: Place::Customer,
                    quantity,
                })
            }
            Body::Adjust(fact) => {
                let quantity = units(fact.quantity)?;
                let there = place(fact.location, fact.state);
                there.map(|there| match quantity {
                    0.. => Effect {
                        from: Place::Loss,
                        to: there,
                        quantity,
                    },
                    ..0 => Effect {
                        from: there,
                        to: Place::Loss,
                        quantity: -quantity,
                    },
                })
            }
            Body::Move {
                quantity, from, to, ..
            } => {
                let quantity = units(*quantity)?;
                let from = place(from.location, from.state);
                from.zip(place(to.location, to.state))
                    .map(|(from, to)| Effect { from, to, quantity })
            }
            Body::Count {
                location,
                quantity,
                figure,
                ..
            } => {
                let counted = units(*quantity)?;
                check_note(decision, sku, location, *figure, counted, findings);
                return None;
            }
            Body::Set {
                location,
                quantity,
                expected,
                ..
            } => {
                let counted = units(*quantity)?;
                let on_hand = self.positions.get(&position_key(sku, location));
                let on_hand = on_hand.map_or(0, |position| position.now.on_hand());
                if let Some(expected) = expected.and_then(&mut units)
                    && expected != on_hand
                {
                    let what = format!(
                        "the set expected {expected} on hand, there were {on_hand}, and it was applied"
                    );
                    findings.add(
                        Invariant::GrantWithinAvailable,
                        About::at(sku, location),
                        what,
                    );
                }
                check_note(decision, sku, location, Figure::OnHand, counted, findings);
                return None;
            }
            _ => return None,
        };
        if effect.is_none() {
            let what = "the fact was applied, and its location is not in the decision".to_owned();
            findings.add(Invariant::Conservation, About::sku(sku), what);
        }
        effect
    }

    /// The event time that it took effect at, and whether it is the right one.
    fn check_event_time(
        &mut self,
        decision: &Decision<'_>,
        sku: &str,
        known: Sku,
        findings: &mut Findings,
    ) -> Option<i64> {
        let (Input::Command(command), Some(Outcome::Applied(notes))) =
            (&decision.input, &decision.outcome)
        else {
            return None;
        };
        if matches!(command.body, Body::Item { .. }) {
            return None;
        }
        let intake = decision.at;
        let ahead = command.occurred_at.map(|at| at.saturating_sub(intake));
        let (expected, ahead_s) = match command.occurred_at.zip(ahead) {
            Some((at, ahead)) if ahead <= CLOCK_AHEAD_MS => (at, None),
            given => {
                let counted = known.newest_count.map(|at| at.saturating_add(1));
                let stamp = counted.map_or(intake, |at| at.max(intake));
                (stamp, given.map(|(_, ahead)| ahead.unsigned_abs() / 1_000))
            }
        };
        if decision.event_time != Some(expected) || notes.clock_ahead_s != ahead_s {
            let what = format!(
                "its event time must be {expected} and its clock ahead by {ahead_s:?} s; the decision \
                 says {:?} and {:?}",
                decision.event_time, notes.clock_ahead_s
            );
            findings.add(Invariant::Replay, About::sku(sku), what);
        }
        if decision.count.is_some() {
            let entry = self.skus.entry(sku_key(sku)).or_default();
            entry.newest_count = entry.newest_count.max(decision.event_time);
        }
        decision.event_time
    }

    fn take_location(
        &mut self,
        decision: &Decision<'_>,
        sku: &str,
        index: u8,
        effect: Option<&Effect>,
        time: Option<i64>,
        findings: &mut Findings,
    ) {
        let location = decision.location(index).unwrap_or_default();
        let about = About::at(sku, location);
        let here = |place: Place| place.location() == Some(index);
        let touched = decision.count.is_some_and(|count| count.location == index)
            || decision
                .movements
                .iter()
                .any(|movement| here(movement.from) || here(movement.to));
        let mut levels = decision
            .levels
            .iter()
            .filter(|level| level.location == index);
        let level = levels.next();
        if !touched && level.is_none() {
            return;
        }
        let position = self.position(sku, location);
        let before = position.now;
        for movement in &decision.movements {
            let quantity = i128::from(movement.quantity);
            if here(movement.from) {
                position.now.enter(movement.from, -quantity);
            }
            if here(movement.to) {
                position.now.enter(movement.to, quantity);
            }
        }
        let changed = before != position.now;
        if levels.next().is_some() {
            let what = "a location has two levels in one decision".to_owned();
            findings.add(Invariant::Numbering, about, what);
        }
        match level {
            None if changed => {
                let what = "its figures changed and no level says so".to_owned();
                findings.add(Invariant::OnHandIsSum, about, what);
            }
            Some(_) if !changed => {
                let what = "a level is stated though no figure changed".to_owned();
                findings.add(Invariant::Numbering, about, what);
            }
            _ => {}
        }
        if let Some(level) = level {
            if changed && level.sequence != position.sequence + 1 {
                let what = format!(
                    "its sequence must be {}, it is {}",
                    position.sequence + 1,
                    level.sequence
                );
                findings.add(Invariant::Numbering, about, what);
            }
            position.sequence = level.sequence;
            position.number = decision.number;
            let stated = [
                level.on_hand,
                level.reserved,
                level.committed,
                level.damaged,
                level.quality_control,
            ]
            .map(i128::from);
            let summed = |now: &Figures| {
                [
                    now.on_hand(),
                    now.reserved,
                    now.committed,
                    now.damaged,
                    now.quality_control,
                ]
            };
            if changed && stated != summed(&position.now) {
                let what = format!(
                    "on hand, reserved, committed, damaged, quality control add up to {:?} from what \
                     moved; the level says {stated:?}",
                    summed(&position.now)
                );
                findings.add(Invariant::OnHandIsSum, about, what);
                let [on_hand, reserved, committed, damaged, quality_control] = stated;
                position.now = Figures {
                    available: on_hand - reserved - committed - damaged - quality_control,
                    reserved,
                    committed,
                    damaged,
                    quality_control,
                };
            }
        }
        check_grant(decision, before, position.now, about, findings);
        let facts = effect.filter(|_| time.is_some());
        take_folds(decision, position, index, facts, about, findings);
    }
}

/// Whether every index has its location, and no location stands twice.
fn locations_fit(decision: &Decision<'_>) -> bool {
    let locations = &decision.locations;
    let fits = |index: u8| usize::from(index) < locations.len();
    let unique = locations.len() <= 1
        || locations.iter().enumerate().all(|(i, location)| {
            let before = locations.get(..i).unwrap_or_default();
            !before.contains(location)
        });
    let moves = decision.movements.iter();
    unique
        && locations.len() <= 256
        && moves
            .flat_map(|movement| [movement.from, movement.to])
            .all(|place| place.location().is_none_or(fits))
        && decision.levels.iter().all(|level| fits(level.location))
        && decision.count.is_none_or(|count| fits(count.location))
}

fn check_note(
    decision: &Decision<'_>,
    sku: &str,
    location: &str,
    figure: Figure,
    counted: i128,
    findings: &mut Findings,
) {
    let right = decision.count.is_some_and(|note| {
        decision.location(note.location) == Some(location)
            && note.figure == figure
            && i128::from(note.counted) == counted
    });
    if !right {
        let what = format!(
            "{counted} of {figure:?} were counted; the decision notes {:?}",
            decision.count
        );
        findings.add(Invariant::Conservation, About::at(sku, location), what);
    }
}

/// Each movement leaves one place for another, both legal for its kind, and the fact's are as the
/// command said.
fn check_movements(
    decision: &Decision<'_>,
    sku: &str,
    effect: Option<&Effect>,
    findings: &mut Findings,
) {
    let mut moved = 0_i128;
    for movement in &decision.movements {
        let legal = movement.quantity > 0
            && movement.from != movement.to
            && match movement.kind {
                MovementKind::Fact => {
                    moved += i128::from(movement.quantity);
                    effect.is_some_and(|e| e.from == movement.from && e.to == movement.to)
                }
                MovementKind::Correction(figure) => {
                    let note = decision.count.filter(|note| note.end == CountEnd::Applied);
                    note.is_some_and(|note| {
                        note.figure == figure
                            && corrects(movement, figure) == Some(Some(note.location))
                    })
                }
                MovementKind::Refold(figure, at) => {
                    corrects(movement, figure).is_some()
                        && decision.event_time.is_some_and(|time| at >= time)
                }
                MovementKind::Hold => is_hold_move(movement) && may_hold(decision),
            };
        if !legal {
            let what = format!("{movement:?} is not legal for what was decided");
            findings.add(Invariant::Conservation, About::sku(sku), what);
        }
    }
    let expected = effect.map_or(0, |effect| {
        if effect.from == effect.to {
            0
        } else {
            effect.quantity
        }
    });
    if moved != expected {
        let what = format!("the fact is about {expected} units, {moved} moved");
        findings.add(Invariant::Conservation, About::sku(sku), what);
    }
}

/// Whether a movement is one of a correction of that figure, and at which location.
fn corrects(movement: &Movement, figure: Figure) -> Option<Option<u8>> {
    let ends = [(movement.from, movement.to), (movement.to, movement.from)];
    ends.into_iter().find_map(|ends| match (figure, ends) {
        (Figure::OnHand, (Place::Loss, Place::Available(l))) => Some(Some(l)),
        (Figure::Damaged, (Place::Available(l), Place::Damaged(m))) if l == m => Some(Some(l)),
        (Figure::QualityControl, (Place::Available(l), Place::QualityControl(m))) if l == m => {
            Some(Some(l))
        }
        _ => None,
    })
}

fn is_hold_move(movement: &Movement) -> bool {
    let held = |place| match place {
        Place::Available(l) | Place::Reserved(l) | Place::Committed(l) => Some(l),
        _ => None,
    };
    held(movement.from).is_some_and(|from| held(movement.to) == Some(from))
}

/// Whether what came in can change holds.
fn may_hold(decision: &Decision<'_>) -> bool {
    match &decision.input {
        Input::Ask(_) => true,
        Input::Command(command) => matches!(
            command.body,
            Body::Ship {
                reservation: Some(_),
                ..
            }
        ),
        Input::Answer(_) | Input::Tick => false,
    }
}

/// What a request took was there to take.
fn check_grant(
    decision: &Decision<'_>,
    before: Figures,
    after: Figures,
    about: About<'_>,
    findings: &mut Findings,
) {
    let Input::Ask(ask) = &decision.input else {
        return;
    };
    let is_commit = matches!(
        ask.kind,
        AskKind::Hold {
            committed: true,
            ..
        }
    );
    let reserved = after.reserved - before.reserved;
    let committed = after.committed - before.committed;
    // A commit is a fact; whatever else was granted behind it must still be there.
    let granted = if is_commit {
        reserved
    } else {
        reserved + committed
    };
    if granted <= 0 {
        return;
    }
    if after.grantable() < 0 {
        let what = format!(
            "a grant of {granted} leaves {} available, the limit is 0",
            after.grantable()
        );
        findings.add(Invariant::GrantWithinLimit, about, what);
    }
    let free = before.grantable() - if is_commit { committed } else { 0 };
    if granted > free.max(0) {
        let what = format!("{granted} were granted and {free} were available");
        findings.add(Invariant::GrantWithinAvailable, about, what);
    }
}

/// The figures by event time.
fn take_folds(
    decision: &Decision<'_>,
    position: &mut Position,
    index: u8,
    effect: Option<&Effect>,
    about: About<'_>,
    findings: &mut Findings,
) {
    let time = decision.event_time.unwrap_or(decision.at);
    if let Some(effect) = effect {
        let ends = [
            (effect.from, -effect.quantity),
            (effect.to, effect.quantity),
        ];
        let here = ends.map(|(place, signed)| (place, signed, place.location() == Some(index)));
        let on_hand: i128 = here.iter().filter(|e| e.2).map(|e| e.1).sum();
        if on_hand != 0 {
            position.fold(Figure::OnHand).moved(time, on_hand);
        }
        for (place, signed, is_here) in here {
            match place {
                Place::Damaged(_) if is_here => position.fold(Figure::Damaged).moved(time, signed),
                Place::QualityControl(_) if is_here => {
                    position.fold(Figure::QualityControl).moved(time, signed);
                }
                _ => {}
            }
        }
    }
    if let (Some(note), Input::Command(command)) = (&decision.count, &decision.input)
        && note.location == index
    {
        let at = note.merged_to.unwrap_or(time);
        if at < time || at.saturating_sub(time) >= SPAN_MS {
            let what = format!("a count at {time} cannot be taken at {at}");
            findings.add(Invariant::Replay, about, what);
        }
        let key = CountKey {
            at,
            counted_at: time,
            source: command.source.into(),
            id: command.id.into(),
        };
        let newest = position.folds.iter().map(Fold::newest).max();
        let fold = position.fold(note.figure);
        let wrong = match note.end {
            CountEnd::Applied => fold.counted(key, i128::from(note.counted)),
            CountEnd::Superseded => fold.superseded(&key),
            CountEnd::NotApplied if newest.is_some_and(|newest| time < newest) => Ok(()),
            CountEnd::NotApplied => Err("nothing at its position is newer, so it could be folded"),
        };
        if let Err(wrong) = wrong {
            let what = format!("the count at {time} ended {:?}: {wrong}", note.end);
            findings.add(Invariant::Replay, about, what);
        }
    }
    for figure in FIGURES {
        let stated = position.now.of(figure);
        let fold = position.fold(figure);
        if fold.inexact {
            fold.resync(stated);
        } else if fold.expected != stated {
            let what = format!(
                "all facts and counts by event time give {} of {figure:?}, the ledger has {stated}",
                fold.expected
            );
            findings.add(Invariant::Replay, about, what);
            fold.resync(stated);
        }
    }
}
