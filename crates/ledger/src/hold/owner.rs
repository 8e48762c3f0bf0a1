//! The owner of a SKU answers asks, and takes in ships that name a reservation.

use crate::command::{Ask, AskKind, AskLine, AskPart, RestoreLine, Verdict};
use crate::decision::{LineState, MovementKind, Place, Reason, Rejection};
use crate::draft::Draft;
use crate::hold::judge::{Judged, Wish, judge, numbers, units};
use crate::hold::lines::{Wanted, direct, lines, open};
use crate::hold::{HoldRecord, ShipTarget, WaitingAsk};
use crate::values::{Location, Quantity, ReservationId, Sku};

/// Asks that wait per SKU; one more is refused as contended. Each is judged again whenever another
/// hold is decided, and the flows' own bound on requests under way is of this order.
const WAITING_MAX: usize = 1_000;

/// Locations in a decision above which no further waiting ask is judged in it: a decision speaks of at
/// most 256, and one ask may bring 100. Those that go on waiting are judged at the next decision on
/// holds of this SKU.
const LOCATIONS_FULL: usize = 128;

/// A change of a reservation's lines that did not fit a figure's range: nothing was moved.
type Moved = Result<(), Reason>;

/// Answers an ask.
pub(crate) fn ask<'a>(draft: &mut Draft<'_, 'a>, ask: &Ask<'a>) -> Moved {
    let record = record_of(draft, &ask.reservation);
    match &ask.kind {
        AskKind::Hold {
            lines,
            committed: true,
            ..
        } => commit(draft, ask, record, lines),
        AskKind::Hold {
            lines,
            partial,
            sole,
            waits,
            whole,
            ..
        } => {
            let (step, since) = (ask.step, draft.number());
            let (lines, partial, sole, whole) = (lines.clone(), *partial, *sole, *whole);
            let wanted = WaitingAsk {
                since,
                step,
                lines,
                partial,
                sole,
                whole,
            };
            hold(draft, &ask.sku, record, wanted, *waits);
        }
        AskKind::Keep => {
            if record.has_undecided() {
                let record = HoldRecord {
                    undecided: Vec::new(),
                    ..record
                };
                state(draft, record);
            }
            judge_waiting(draft, &ask.sku);
        }
        AskKind::Confirm { lines } => {
            let wanted = record
                .lines
                .iter()
                .map(|line| confirmed(line, lines))
                .collect();
            change(draft, ask, record, wanted)?;
        }
        AskKind::GiveBack { lines } => {
            let parts = lines.as_deref();
            let wanted = record
                .lines
                .iter()
                .map(|line| given_back(line, parts))
                .collect();
            change(draft, ask, record, wanted)?;
            judge_waiting(draft, &ask.sku);
        }
        AskKind::Restore { lines } => {
            let wanted = lines.iter().map(restored).collect();
            let record = HoldRecord {
                undecided: Vec::new(),
                waiting: None,
                ..record
            };
            change(draft, ask, record, wanted)?;
            judge_waiting(draft, &ask.sku);
        }
    }
    Ok(())
}

/// A ship that names a reservation: so much of its open lines ends. Says how much.
///
/// # Errors
/// [`Reason::Overflow`] when a figure would leave its range; nothing was moved then.
pub(crate) fn ship<'a>(
    draft: &mut Draft<'_, 'a>,
    reservation: &ReservationId<'a>,
    line: Option<u32>,
    location: &Location<'a>,
    quantity: Quantity,
) -> Result<Quantity, Reason> {
    let sku = draft
        .decision
        .input
        .sku()
        .cloned()
        .expect("a ship names a SKU");
    let mut record = record_of(draft, reservation);
    let to = line.map_or_else(|| ShipTarget::Location(location.clone()), ShipTarget::Line);
    direct(&mut record.shipped, to, quantity)?;
    let now = lines(
        record.lines.iter().map(Wanted::of).collect(),
        &record.shipped,
    );
    let sum = |lines: &[LineState<'_>]| {
        lines
            .iter()
            .map(|line| i128::from(open(line)))
            .sum::<i128>()
    };
    // No line gets more open by a ship, and all that is met is part of it.
    let met = i64::try_from(sum(&record.lines) - sum(&now)).map_err(|_| Reason::Overflow)?;
    move_lines(draft, &record.lines, &now)?;
    let record = with_lines(record, now);
    if met > 0 {
        draft.send_answer(
            reservation.clone(),
            sku,
            None,
            record.lines.clone(),
            Verdict::Done,
        );
    }
    state(draft, record);
    Ok(Quantity(met))
}

/// Answers an ask that could not be processed: a hold counts as refused. Says whether that was
/// possible; any other ask is somebody's to look at, and its reservation waits.
pub(crate) fn park<'a>(draft: &mut Draft<'_, 'a>, ask: &Ask<'a>) -> bool {
    let AskKind::Hold { lines, .. } = &ask.kind else {
        return false;
    };
    let record = record_of(draft, &ask.reservation);
    let refusal = refusal(draft, &ask.sku, lines, Reason::Parked);
    answer(
        draft,
        ask.sku.clone(),
        &record,
        ask.step,
        Verdict::Refused(refusal),
    );
    true
}

/// The lines as a commit states them: never refused for lack of stock, only where they cannot be
/// written down.
fn commit<'a>(
    draft: &mut Draft<'_, 'a>,
    ask: &Ask<'a>,
    record: HoldRecord<'a>,
    asked: &[AskLine<'a>],
) {
    let mut wanted = Vec::with_capacity(asked.len());
    let mut refusal = refusal(draft, &ask.sku, asked, Reason::None);
    for (line, numbers) in asked.iter().zip(&mut refusal.lines) {
        match committed(draft, line) {
            Ok(line) => wanted.push(line),
            Err(reason) => {
                numbers.reason = reason;
                if refusal.reason == Reason::None {
                    refusal.reason = reason;
                }
            }
        }
    }
    if refusal.reason == Reason::None {
        let now = lines(wanted, &record.shipped);
        match move_lines(draft, &record.lines, &now) {
            Ok(()) => {
                let record = HoldRecord {
                    undecided: Vec::new(),
                    ..record
                };
                let record = with_lines(record, now);
                let known = draft.hold_of(record.reservation.as_str()).is_some();
                let is_kept = known || !record.keeps_nothing();
                let created = draft.names_a_location_first() || is_kept && draft.sku().is_none();
                let verdict = if created {
                    Verdict::Created
                } else {
                    Verdict::Done
                };
                answer(draft, ask.sku.clone(), &record, ask.step, verdict);
                if is_kept {
                    state(draft, record);
                }
                return;
            }
            Err(reason) => {
                refusal.reason = reason;
                refusal
                    .lines
                    .iter_mut()
                    .for_each(|numbers| numbers.reason = reason);
            }
        }
    }
    answer(
        draft,
        ask.sku.clone(),
        &record,
        ask.step,
        Verdict::Refused(refusal),
    );
}

/// A line of a commit.
fn committed<'a>(draft: &Draft<'_, 'a>, line: &AskLine<'a>) -> Result<Wanted<'a>, Reason> {
    // The owner of the reservation lets no commit through that names no location.
    let location = line.location.clone().ok_or(Reason::UnknownLocation)?;
    if draft.state.settings().known_only {
        if draft.sku().is_none() {
            return Err(Reason::UnknownSku);
        }
        if !draft.knows_location(location.as_str()) {
            return Err(Reason::UnknownLocation);
        }
    }
    let units = units(line.quantity, draft.decimals())?;
    let given_back = line.given_back.0.min(units);
    Ok(Wanted {
        line: line.line,
        location,
        asked: units,
        given_back,
        confirmed: i64::MAX,
    })
}

/// A request to hold: granted, refused, or (`waits`) put behind others' undecided holds.
fn hold<'a>(
    draft: &mut Draft<'_, 'a>,
    sku: &Sku<'a>,
    record: HoldRecord<'a>,
    wanted: WaitingAsk<'a>,
    waits: bool,
) {
    let queued = draft.sku().map_or(0, |sku| sku.holds.waiting_len());
    let wish = wanted.wish(sku);
    let judged = judge(draft, &record, wish);
    let behind = waits && queued > 0 && matches!(judged, Judged::Granted(_));
    let blocked = waits && matches!(judged, Judged::Contended(_));
    if (behind || blocked) && queued < WAITING_MAX {
        state(
            draft,
            HoldRecord {
                waiting: Some(wanted),
                ..record
            },
        );
        return;
    }
    settle(draft, sku, record, &wanted, judged);
}

/// Judges those that wait, the longest first, up to the first that must go on waiting.
fn judge_waiting<'a>(draft: &mut Draft<'_, 'a>, sku: &Sku<'a>) {
    let Some(known) = draft.sku() else { return };
    for reservation in known.holds.waiting() {
        if draft.decision.locations.len() >= LOCATIONS_FULL {
            return;
        }
        let Some(record) = draft.hold_of(reservation).map(std::borrow::Cow::into_owned) else {
            continue;
        };
        // Its own decision may have ended the wait.
        let Some(wanted) = record.waiting.clone() else {
            continue;
        };
        let judged = judge(draft, &record, wanted.wish(sku));
        if matches!(judged, Judged::Contended(_)) {
            return;
        }
        settle(
            draft,
            sku,
            HoldRecord {
                waiting: None,
                ..record
            },
            &wanted,
            judged,
        );
    }
}

/// Carries out what was judged, and answers.
fn settle<'a>(
    draft: &mut Draft<'_, 'a>,
    sku: &Sku<'a>,
    record: HoldRecord<'a>,
    wanted: &WaitingAsk<'a>,
    judged: Judged<'a>,
) {
    let known = draft.hold_of(record.reservation.as_str()).is_some();
    let (record, verdict) = match judged {
        Judged::Granted(now) => match move_lines(draft, &record.lines, &now) {
            Ok(()) => {
                let undecided = if wanted.sole {
                    Vec::new()
                } else {
                    raised(&record.lines, &now)
                };
                (
                    HoldRecord {
                        lines: now,
                        undecided,
                        ..record
                    },
                    Verdict::Done,
                )
            }
            Err(reason) => {
                let numbers = refusal(draft, sku, &wanted.lines, reason);
                (record, Verdict::Refused(numbers))
            }
        },
        Judged::Refused(refusal) => (record, Verdict::Refused(refusal)),
        Judged::Contended(refusal) => (record, Verdict::Contended(refusal)),
    };
    answer(draft, sku.clone(), &record, wanted.step, verdict);
    if known || !record.keeps_nothing() {
        state(draft, record);
    }
}

/// How much more of each line is reserved than before.
fn raised(before: &[LineState<'_>], now: &[LineState<'_>]) -> Vec<Quantity> {
    let raised = |line: &LineState<'_>| {
        let known = before
            .iter()
            .find(|b| same(b, line))
            .map_or(0, |b| b.reserved.0);
        Quantity((line.reserved.0 - known).max(0))
    };
    now.iter().map(raised).collect()
}

/// Changes lines in a way that stock cannot refuse, and answers.
fn change<'a>(
    draft: &mut Draft<'_, 'a>,
    ask: &Ask<'a>,
    record: HoldRecord<'a>,
    wanted: Vec<Wanted<'a>>,
) -> Moved {
    let now = lines(wanted, &record.shipped);
    move_lines(draft, &record.lines, &now)?;
    let known = draft.hold_of(record.reservation.as_str()).is_some();
    let record = with_lines(record, now);
    answer(draft, ask.sku.clone(), &record, ask.step, Verdict::Done);
    if known {
        state(draft, record);
    }
    Ok(())
}

fn confirmed<'a>(line: &LineState<'a>, parts: &[AskPart<'_>]) -> Wanted<'a> {
    let mut wanted = Wanted::of(line);
    wanted.confirmed += part_of(line, parts).min(line.reserved.0);
    wanted
}

fn given_back<'a>(line: &LineState<'a>, parts: Option<&[AskPart<'_>]>) -> Wanted<'a> {
    let mut wanted = Wanted::of(line);
    let part = parts.map_or(i64::MAX, |parts| part_of(line, parts));
    wanted.given_back += part.min(open(line));
    wanted
}

fn part_of(line: &LineState<'_>, parts: &[AskPart<'_>]) -> i64 {
    let part = parts
        .iter()
        .find(|p| p.line == line.line && p.location == line.location);
    part.map_or(0, |part| part.quantity.0.max(0))
}

fn restored<'a>(line: &RestoreLine<'a>) -> Wanted<'a> {
    Wanted {
        line: line.line,
        location: line.location.clone(),
        asked: line.asked.0,
        given_back: line.given_back.0.min(line.asked.0),
        confirmed: line.confirmed.0,
    }
}

/// The record with its lines as they are now; what is undecided of them cannot be more than what is
/// reserved.
fn with_lines<'a>(record: HoldRecord<'a>, now: Vec<LineState<'a>>) -> HoldRecord<'a> {
    let mut undecided = Vec::new();
    if record.has_undecided() {
        undecided.extend(now.iter().map(|line| {
            let mut before = record.lines.iter().zip(&record.undecided);
            let before = before.find(|(before, _)| same(before, line));
            before.map_or(Quantity::ZERO, |(_, undecided)| {
                (*undecided).min(line.reserved)
            })
        }));
    }
    HoldRecord {
        lines: now,
        undecided,
        ..record
    }
}

fn same(a: &LineState<'_>, b: &LineState<'_>) -> bool {
    a.line == b.line && a.location == b.location
}

/// Moves what is held between available, reserved and committed, at every location.
///
/// # Errors
/// [`Reason::Overflow`] when a figure would leave its range; nothing was moved then.
fn move_lines<'a>(
    draft: &mut Draft<'_, 'a>,
    before: &[LineState<'a>],
    now: &[LineState<'a>],
) -> Moved {
    let mut places: Vec<&Location<'a>> = before
        .iter()
        .chain(now)
        .map(|line| &line.location)
        .collect();
    places.sort_unstable();
    places.dedup();
    let mut moves = Vec::new();
    for place in places {
        let sum = |lines: &[LineState<'_>], of: fn(&LineState<'_>) -> i64| -> i128 {
            let there = lines.iter().filter(|line| line.location == *place);
            there.map(|line| i128::from(of(line))).sum()
        };
        let reserved = |line: &LineState<'_>| line.reserved.0;
        let committed = |line: &LineState<'_>| line.committed.0;
        let mut more_reserved = sum(now, reserved) - sum(before, reserved);
        let mut more_committed = sum(now, committed) - sum(before, committed);
        let mut figures = draft.figures_at(place.as_str());
        let mut go = |from: fn(u8) -> Place, to: fn(u8) -> Place, quantity: i128| -> Moved {
            if quantity <= 0 {
                return Ok(());
            }
            let quantity = i64::try_from(quantity).map_err(|_| Reason::Overflow)?;
            // Which location does not matter to the figures.
            let left = figures
                .entered(from(0), -quantity)
                .ok_or(Reason::Overflow)?;
            figures = left.entered(to(0), quantity).ok_or(Reason::Overflow)?;
            moves.push((place.clone(), from, to, quantity));
            Ok(())
        };
        let confirmed = more_committed.min(-more_reserved).max(0);
        go(Place::Reserved, Place::Committed, confirmed)?;
        (more_reserved, more_committed) = (more_reserved + confirmed, more_committed - confirmed);
        let undone = more_reserved.min(-more_committed).max(0);
        go(Place::Committed, Place::Reserved, undone)?;
        (more_reserved, more_committed) = (more_reserved - undone, more_committed + undone);
        go(Place::Reserved, Place::Available, -more_reserved)?;
        go(Place::Committed, Place::Available, -more_committed)?;
        go(Place::Available, Place::Reserved, more_reserved)?;
        go(Place::Available, Place::Committed, more_committed)?;
    }
    for (place, from, to, quantity) in moves {
        let place = draft.location(place);
        draft
            .move_(
                from(place),
                to(place),
                Quantity(quantity),
                MovementKind::Hold,
            )
            .expect("the figures were tried before");
    }
    Ok(())
}

/// A refusal of every line for one reason.
fn refusal<'a>(
    draft: &Draft<'_, 'a>,
    sku: &Sku<'a>,
    lines: &[AskLine<'a>],
    reason: Reason,
) -> Rejection<'a> {
    let decimals = draft.decimals();
    let numbers = |line: &AskLine<'a>| numbers(sku, line, decimals, reason);
    Rejection {
        reason,
        lines: lines.iter().map(numbers).collect(),
    }
}

fn record_of<'a>(draft: &Draft<'_, 'a>, reservation: &ReservationId<'a>) -> HoldRecord<'a> {
    let known = draft
        .hold_of(reservation.as_str())
        .map(std::borrow::Cow::into_owned);
    known.unwrap_or_else(|| HoldRecord::new(reservation.clone()))
}

fn state<'a>(draft: &mut Draft<'_, 'a>, record: HoldRecord<'a>) {
    let (number, at) = (draft.number(), draft.at());
    draft.hold(HoldRecord {
        number,
        at,
        ..record
    });
}

fn answer<'a>(
    draft: &mut Draft<'_, 'a>,
    sku: Sku<'a>,
    record: &HoldRecord<'a>,
    step: u64,
    verdict: Verdict<'a>,
) {
    let (reservation, lines) = (record.reservation.clone(), record.lines.clone());
    draft.send_answer(reservation, sku, Some(step), lines, verdict);
}

impl<'a> WaitingAsk<'a> {
    fn wish<'w>(&'w self, sku: &'w Sku<'a>) -> Wish<'w, 'a> {
        Wish {
            sku,
            lines: &self.lines,
            partial: self.partial,
            whole: self.whole,
        }
    }
}
