//! Facts about stock, and the requests that a SKU's owner answers alone: what each does to levels.
//!
//! | command | moves |
//! |---|---|
//! | `receive` | supplier → location |
//! | `ship` | location → customer, and ends holds where it names a reservation |
//! | `return` | customer → location |
//! | `adjust` | loss → location, or back |
//! | `move` | location and state → location and state |
//! | `count`, `set` | the correction: loss ↔ location, or available ↔ the counted state |
//! | `item` | nothing |
//!
//! A fact is never refused for lack of stock. What a count has already seen is absorbed: the fact's
//! movement stands, and next to it the count's correction changes by the opposite (see [`fold`]).
//!
//! [`fold`]: crate::fold

use crate::command::{Body, Command, Fact, Figure, StateName, StockPlace};
use crate::decision::{
    CountEnd, CountNote, Invalid, LineNumbers, MovementKind, Notes, Outcome, Place, Reason,
    Rejection,
};
use crate::draft::Draft;
use crate::fold::{Fold, Judged};
use crate::hold;
use crate::values::{Amount, Location, Quantity, Sku, Time};

/// How far ahead of intake a sender's clock may be; beyond it the time of intake is taken.
const CLOCK_AHEAD_MS: i64 = 60_000;
/// Event times further from 1970 than this (about 285,000 years) are refused: a fold keeps a time and
/// a figure in one word.
const TIME_RANGE: i64 = 1 << 53;
/// Decimals that an item may declare at most.
const DECIMALS_MAX: u8 = 6;

/// Why a command changed nothing.
enum Stop<'a> {
    /// It ends so.
    Ends(Outcome<'a>),
    /// The draft is spoilt half way: a figure would leave its range.
    Spoilt(Reason),
}

impl From<Reason> for Stop<'_> {
    fn from(reason: Reason) -> Self {
        Self::Spoilt(reason)
    }
}

type Step<'a, T> = Result<T, Stop<'a>>;

/// Decides a command that is keyed by a SKU.
///
/// # Errors
/// [`Reason::Overflow`] when a figure would leave its range; the draft must then be given up.
pub(crate) fn command<'a>(draft: &mut Draft<'_, 'a>, command: &Command<'a>) -> Result<(), Reason> {
    let ended = match &command.body {
        Body::Receive(fact) => delta(draft, command, fact, Direction::In(Place::Supplier)),
        Body::Return(fact) => delta(draft, command, fact, Direction::In(Place::Customer)),
        Body::Ship { fact, .. } => delta(draft, command, fact, Direction::Out(Place::Customer)),
        Body::Adjust(fact) => delta(draft, command, fact, Direction::Signed(Place::Loss)),
        Body::Move {
            quantity, from, to, ..
        } => move_(draft, command, *quantity, from, to),
        Body::Count {
            location,
            quantity,
            figure,
            ..
        } => count(draft, command, location, *quantity, *figure),
        Body::Set {
            sku,
            location,
            quantity,
            expected,
        } => set(draft, command, sku, location, *quantity, *expected),
        Body::Item { sku, decimals, .. } => item(draft, sku, *decimals),
        Body::Commit { .. }
        | Body::Reserve { .. }
        | Body::Confirm { .. }
        | Body::Release { .. }
        | Body::Extend { .. } => unreachable!("a reservation's commands go to its owner"),
    };
    match ended {
        Ok(outcome) | Err(Stop::Ends(outcome)) => {
            draft.outcome(outcome);
            Ok(())
        }
        Err(Stop::Spoilt(reason)) => Err(reason),
    }
}

/// The outcome of a command that a figure's range stopped.
pub(crate) fn refused<'a>(command: &Command<'a>, reason: Reason) -> Outcome<'a> {
    match &command.body {
        Body::Set { .. } | Body::Item { .. } => rejected(reason, Vec::new()),
        _ => invalid("quantity", reason),
    }
}

fn invalid<'a>(field: &'static str, reason: Reason) -> Outcome<'a> {
    Outcome::Invalid(Invalid {
        field: field.into(),
        reason,
        first: 0,
    })
}

fn rejected(reason: Reason, lines: Vec<LineNumbers<'_>>) -> Outcome<'_> {
    Outcome::Rejected(Rejection { reason, lines })
}

/// Where the other end of a fact lies.
#[derive(Clone, Copy)]
enum Direction {
    In(Place),
    Out(Place),
    Signed(Place),
}

fn place(state: StateName, location: u8) -> Place {
    match state {
        StateName::Available => Place::Available(location),
        StateName::Damaged => Place::Damaged(location),
        StateName::QualityControl => Place::QualityControl(location),
    }
}

/// The figure that a state has of its own; `available` is what is left of the others.
fn figure(state: StateName) -> Option<Figure> {
    match state {
        StateName::Available => None,
        StateName::Damaged => Some(Figure::Damaged),
        StateName::QualityControl => Some(Figure::QualityControl),
    }
}

/// A quantity in the SKU's units, or what is wrong with it.
fn units<'a>(draft: &Draft<'_, 'a>, amount: Amount, field: &'static str) -> Step<'a, Quantity> {
    amount
        .units(draft.decimals())
        .map_err(|reason| Stop::Ends(invalid(field, reason)))
}

/// Refuses a quantity that is not as the type demands.
fn demand<'a>(holds: bool) -> Step<'a, ()> {
    let wrong = || Stop::Ends(invalid("quantity", Reason::QuantityRange));
    if holds { Ok(()) } else { Err(wrong()) }
}

/// When the node knows only named SKUs and locations: whether these are.
fn known<'a>(draft: &Draft<'_, 'a>, locations: &[&Location<'a>]) -> Step<'a, ()> {
    if !draft.state.settings().known_only {
        return Ok(());
    }
    let unknown = locations.iter().find(|l| !draft.knows_location(l.as_str()));
    let text = match (draft.sku(), unknown) {
        (None, _) => "the SKU was never named: declare it with an `item` command, then \
             send it again under a new id"
            .into(),
        (_, Some(location)) => format!(
            "neither this SKU nor any kept with it has a level at the location `{location}`: \
             receive or count it there while the node takes unknown names, then send it \
             again under a new id"
        ),
        _ => return Ok(()),
    };
    Err(Stop::Ends(Outcome::Parked { panic: text.into() }))
}

/// The event time of a command, and by how many seconds its sender's clock was ahead.
fn event_time<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
) -> Step<'a, (Time, Option<u64>)> {
    let intake = draft.at();
    let ahead = command
        .occurred_at
        .map_or(0, |at| at.0.saturating_sub(intake.0));
    let (at, clock_ahead_s) = match command.occurred_at {
        Some(at) if at.0.unsigned_abs() > TIME_RANGE.unsigned_abs() => {
            return Err(Stop::Ends(invalid("occurred_at", Reason::TimeRange)));
        }
        Some(at) if ahead <= CLOCK_AHEAD_MS => (at, None),
        given => {
            // Log time only rises, and so does the newest count: no stamp is before an earlier one.
            let newest_count = draft.sku().and_then(|sku| sku.newest_count());
            let stamp = newest_count.map_or(intake, |count| intake.max(count.plus(1)));
            (stamp, given.map(|_| ahead.unsigned_abs() / 1_000))
        }
    };
    draft.decision.event_time = Some(at);
    Ok((at, clock_ahead_s))
}

/// Receive, ship, return and adjust.
fn delta<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
    fact: &Fact<'a>,
    direction: Direction,
) -> Step<'a, Outcome<'a>> {
    let quantity = units(draft, fact.quantity, "quantity")?.0;
    demand(match direction {
        Direction::Signed(_) => quantity != 0 && quantity != i64::MIN,
        Direction::In(_) | Direction::Out(_) => quantity > 0,
    })?;
    known(draft, &[&fact.location])?;
    let (at, clock_ahead_s) = event_time(draft, command)?;
    let location = draft.location(fact.location.clone());
    let created = draft.overlay(location).position.is_none();
    let (outside, signed) = match direction {
        Direction::In(outside) | Direction::Signed(outside) => (outside, quantity),
        Direction::Out(outside) => (outside, -quantity),
    };
    draft.shift(
        outside,
        place(fact.state, location),
        signed,
        MovementKind::Fact,
    )?;
    let mut absorbed = absorb(draft, location, Figure::OnHand, at, signed)?;
    if let Some(figure) = figure(fact.state) {
        absorbed |= absorb(draft, location, figure, at, signed)?;
    }
    let met = match &command.body {
        Body::Ship {
            reservation: Some(reservation),
            line,
            ..
        } => {
            let quantity = Quantity(quantity);
            Some(hold::ship(
                draft,
                reservation,
                *line,
                &fact.location,
                quantity,
            )?)
        }
        _ => None,
    };
    Ok(Outcome::Applied(Notes {
        created,
        clock_ahead_s,
        hold: met,
        absorbed,
    }))
}

fn move_<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
    quantity: Amount,
    from: &StockPlace<'a>,
    to: &StockPlace<'a>,
) -> Step<'a, Outcome<'a>> {
    let quantity = units(draft, quantity, "quantity")?;
    demand(quantity.0 > 0)?;
    if from == to {
        return Err(Stop::Ends(invalid("to", Reason::SamePlace)));
    }
    known(draft, &[&from.location, &to.location])?;
    let (at, clock_ahead_s) = event_time(draft, command)?;
    let source = draft.location(from.location.clone());
    let target = draft.location(to.location.clone());
    let new = |l| draft.overlay(l).position.is_none();
    let created = new(source) || new(target);
    let (leaves, enters) = (place(from.state, source), place(to.state, target));
    draft.move_(leaves, enters, quantity, MovementKind::Fact)?;
    let mut absorbed = false;
    if source != target {
        absorbed |= absorb(draft, source, Figure::OnHand, at, -quantity.0)?;
        absorbed |= absorb(draft, target, Figure::OnHand, at, quantity.0)?;
    }
    // Within one location and between locations: equal places were refused above.
    if let Some(figure) = figure(from.state) {
        absorbed |= absorb(draft, source, figure, at, -quantity.0)?;
    }
    if let Some(figure) = figure(to.state) {
        absorbed |= absorb(draft, target, figure, at, quantity.0)?;
    }
    Ok(Outcome::Applied(Notes {
        created,
        clock_ahead_s,
        hold: None,
        absorbed,
    }))
}

/// Where a count has already seen what moved a figure at that time: its correction changes by the
/// opposite. Says whether one has.
fn absorb(
    draft: &mut Draft<'_, '_>,
    location: u8,
    figure: Figure,
    at: Time,
    moved: i64,
) -> Result<bool, Reason> {
    let Some(position) = draft.overlay(location).position else {
        return Ok(false);
    };
    let Some(count) = position.fold().absorbed_by(figure, at) else {
        return Ok(false);
    };
    count
        .correction
        .checked_sub(moved)
        .ok_or(Reason::Overflow)?;
    let opposite = moved.checked_neg().ok_or(Reason::Overflow)?;
    correct(
        draft,
        location,
        figure,
        opposite,
        MovementKind::Refold(figure, count.at),
    )?;
    Ok(true)
}

/// The movement of a correction: on hand against loss, a state against available.
fn correct(
    draft: &mut Draft<'_, '_>,
    location: u8,
    figure: Figure,
    by: i64,
    kind: MovementKind,
) -> Result<(), Reason> {
    let (from, to) = match figure {
        Figure::OnHand => (Place::Loss, Place::Available(location)),
        Figure::Damaged => (Place::Available(location), Place::Damaged(location)),
        Figure::QualityControl => (Place::Available(location), Place::QualityControl(location)),
    };
    draft.shift(from, to, by, kind)
}

fn count<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
    location: &Location<'a>,
    quantity: Amount,
    figure: Figure,
) -> Step<'a, Outcome<'a>> {
    let counted = units(draft, quantity, "quantity")?;
    demand(counted >= Quantity::ZERO)?;
    known(draft, &[location])?;
    observe(draft, command, location, counted, figure)
}

fn set<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
    sku: &Sku<'a>,
    location: &Location<'a>,
    quantity: Amount,
    expected: Option<Amount>,
) -> Step<'a, Outcome<'a>> {
    let settings = draft.state.settings();
    if !settings.truth.contains(&command.source) {
        return Err(Stop::Ends(rejected(Reason::NotASourceOfTruth, Vec::new())));
    }
    let quantity = units(draft, quantity, "quantity")?;
    demand(quantity >= Quantity::ZERO)?;
    let expected = expected
        .map(|e| units(draft, e, "expected_quantity"))
        .transpose()?;
    let on_hand = Quantity(draft.figures_at(location.as_str()).on_hand);
    let numbers = |reason| {
        vec![LineNumbers {
            line: 0,
            sku: sku.clone(),
            location: Some(location.clone()),
            decimals: draft.decimals(),
            requested: expected.unwrap_or(quantity),
            available: on_hand,
            reason,
        }]
    };
    if settings.known_only {
        let known = draft.knows_location(location.as_str());
        let reason = match (draft.sku().is_some(), known) {
            (true, true) => None,
            (false, _) => Some(Reason::UnknownSku),
            (true, false) => Some(Reason::UnknownLocation),
        };
        if let Some(reason) = reason {
            return Err(Stop::Ends(rejected(reason, numbers(reason))));
        }
    }
    if expected.is_some_and(|expected| expected != on_hand) {
        let reason = Reason::NotAsExpected;
        return Err(Stop::Ends(rejected(reason, numbers(reason))));
    }
    observe(draft, command, location, quantity, Figure::OnHand)
}

/// A count, or a set that folds like one.
fn observe<'a>(
    draft: &mut Draft<'_, 'a>,
    command: &Command<'a>,
    location: &Location<'a>,
    counted: Quantity,
    figure: Figure,
) -> Step<'a, Outcome<'a>> {
    let (counted_at, clock_ahead_s) = event_time(draft, command)?;
    let index = draft.location(location.clone());
    let position = draft.overlay(index).position;
    let figures = draft.figures(index);
    let now = match figure {
        Figure::OnHand => figures.on_hand,
        Figure::Damaged => figures.damaged,
        Figure::QualityControl => figures.quality_control,
    };
    let fold = position.map_or(
        Fold {
            entries: &[],
            counts: None,
        },
        |p| p.fold(),
    );
    let judged = fold.judge(
        figure,
        now,
        counted_at,
        command.source.as_str(),
        command.id.as_str(),
    );
    let (end, taken_at, expected) = match judged {
        Judged::Applied { at, expected, .. } => (CountEnd::Applied, at, expected),
        Judged::Superseded { at, expected } => (CountEnd::Superseded, at, expected),
        Judged::NotApplied { expected } => (CountEnd::NotApplied, counted_at, expected),
    };
    let fits = |n: i128| i64::try_from(n).map_err(|_| Reason::Overflow);
    let expected = fits(expected)?;
    draft.decision.count = Some(CountNote {
        location: index,
        figure,
        counted,
        expected: Quantity(expected),
        end,
        opening: command.reason.as_deref() == Some("opening"),
        merged_to: (taken_at != counted_at).then_some(taken_at),
    });
    if let Judged::Applied {
        at, replaced, next, ..
    } = judged
    {
        let correction = counted.0.checked_sub(expected).ok_or(Reason::Overflow)?;
        let undo = replaced.checked_neg().ok_or(Reason::Overflow)?;
        correct(draft, index, figure, undo, MovementKind::Refold(figure, at))?;
        correct(
            draft,
            index,
            figure,
            correction,
            MovementKind::Correction(figure),
        )?;
        if let Some((next_at, next_correction)) = next {
            let change = replaced.checked_sub(correction).ok_or(Reason::Overflow)?;
            next_correction
                .checked_add(change)
                .ok_or(Reason::Overflow)?;
            correct(
                draft,
                index,
                figure,
                change,
                MovementKind::Refold(figure, next_at),
            )?;
        }
    }
    let notes = Notes {
        created: position.is_none(),
        clock_ahead_s,
        hold: None,
        absorbed: matches!(judged, Judged::Applied { next: Some(_), .. }),
    };
    Ok(Outcome::Applied(notes))
}

fn item<'a>(
    draft: &mut Draft<'_, 'a>,
    sku: &Sku<'a>,
    decimals: Option<u8>,
) -> Step<'a, Outcome<'a>> {
    let known = draft.sku();
    let decimals = decimals.unwrap_or(draft.decimals());
    if decimals > DECIMALS_MAX {
        return Err(Stop::Ends(invalid("decimals", Reason::OutOfRange)));
    }
    if decimals != draft.decimals() && known.is_some_and(|sku| sku.has_entries()) {
        let line = LineNumbers {
            line: 0,
            sku: sku.clone(),
            location: None,
            // Both are counts of decimals, not quantities of the item.
            decimals: 0,
            requested: Quantity(decimals.into()),
            available: Quantity(draft.decimals().into()),
            reason: Reason::DecimalsFixed,
        };
        return Err(Stop::Ends(rejected(Reason::DecimalsFixed, vec![line])));
    }
    draft.decision.decimals = decimals;
    Ok(Outcome::Applied(Notes {
        created: known.is_none(),
        ..Notes::default()
    }))
}
