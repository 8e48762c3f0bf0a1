//! Whether stock allows what an ask wants held, and if not, with which numbers.

use crate::command::AskLine;
use crate::decision::{LineNumbers, LineState, Reason, Rejection};
use crate::draft::Draft;
use crate::hold::lines::{Wanted, lines, open};
use crate::hold::{Directed, HoldRecord};
use crate::sku::Figures;
use crate::values::{Amount, Location, Quantity, Sku};

/// What comes of an ask.
#[derive(Debug)]
pub(crate) enum Judged<'a> {
    /// The lines as they are held then.
    Granted(Vec<LineState<'a>>),
    Refused(Rejection<'a>),
    /// Refused, but would have been granted without others' undecided holds.
    Contended(Rejection<'a>),
}

/// The part of an ask that it is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'w, 'a> {
    pub(crate) sku: &'w Sku<'a>,
    pub(crate) lines: &'w [AskLine<'a>],
    pub(crate) partial: bool,
    pub(crate) whole: bool,
}

/// Judges an ask against the stock as the draft has it.
pub(crate) fn judge<'a>(
    draft: &Draft<'_, 'a>,
    record: &HoldRecord<'a>,
    wish: Wish<'_, 'a>,
) -> Judged<'a> {
    let refusal = match attempt(draft, record, wish, &[]) {
        Ok(granted) => return Judged::Granted(granted),
        Err(refusal) => refusal,
    };
    let undecided = undecided_of_others(draft, record.reservation.as_str());
    if !undecided.is_empty() && attempt(draft, record, wish, &undecided).is_ok() {
        return Judged::Contended(refusal);
    }
    Judged::Refused(refusal)
}

/// What others hold that is not decided, by location.
fn undecided_of_others(draft: &Draft<'_, '_>, own: &str) -> Vec<(String, i128)> {
    let mut found: Vec<(String, i128)> = Vec::new();
    let mut add = |record: &HoldRecord<'_>| {
        for (line, undecided) in record.lines.iter().zip(&record.undecided) {
            let known = found
                .iter_mut()
                .find(|(at, _)| at == line.location.as_str());
            match known {
                Some((_, sum)) => *sum += i128::from(undecided.0),
                None => found.push((line.location.as_str().to_owned(), undecided.0.into())),
            }
        }
    };
    let here = &draft.decision.holds;
    let here = here
        .iter()
        .filter(|record| record.reservation.as_str() != own);
    here.clone().for_each(&mut add);
    let before = draft.sku().into_iter().flat_map(|sku| {
        sku.holds
            .undecided()
            .filter_map(|reservation| sku.holds.get(reservation))
    });
    for record in before {
        let restated = here
            .clone()
            .any(|drafted| drafted.reservation == record.reservation);
        if !restated && record.reservation.as_str() != own {
            add(record);
        }
    }
    found
}

/// What a grant may take at a location. Backorders are not allowed: the limit is 0. Negative blocked
/// stock is a sender's mistake and must not free what is not there.
fn grantable(figures: &Figures) -> i128 {
    i128::from(figures.on_hand)
        - i128::from(figures.reserved)
        - i128::from(figures.committed)
        - i128::from(figures.damaged.max(0))
        - i128::from(figures.quality_control.max(0))
}

fn attempt<'a>(
    draft: &Draft<'_, 'a>,
    record: &HoldRecord<'a>,
    wish: Wish<'_, 'a>,
    freed: &[(String, i128)],
) -> Result<Vec<LineState<'a>>, Rejection<'a>> {
    let mut attempt = Attempt::new(draft, record, wish, freed);
    let mut numbers = Vec::with_capacity(wish.lines.len());
    let mut raised = false;
    for line in wish.lines {
        let asked = attempt.line(line, wish);
        raised |= asked.raised;
        numbers.push(asked.numbers);
    }
    let first = numbers
        .iter()
        .map(|line| line.reason)
        .find(|reason| *reason != Reason::None);
    match first {
        Some(reason) if !wish.partial || !raised => Err(Rejection {
            reason,
            lines: numbers,
        }),
        _ => Ok(attempt.now),
    }
}

/// An ask's lines taken in one after another: each sees what the earlier ones took.
struct Attempt<'d, 's, 'a> {
    draft: &'d Draft<'s, 'a>,
    freed: &'d [(String, i128)],
    shipped: &'d [Directed<'a>],
    before: &'d [LineState<'a>],
    wanted: Vec<Wanted<'a>>,
    now: Vec<LineState<'a>>,
}

struct LineJudged<'a> {
    numbers: LineNumbers<'a>,
    /// More is asked of the line than before.
    raised: bool,
}

impl<'d, 's, 'a> Attempt<'d, 's, 'a> {
    fn new(
        draft: &'d Draft<'s, 'a>,
        record: &'d HoldRecord<'a>,
        wish: Wish<'_, 'a>,
        freed: &'d [(String, i128)],
    ) -> Self {
        // What ended without shipping and is not asked again is of no more use here, and would grow
        // with every new statement of the reservation.
        let named = |line: &LineState<'_>| wish.lines.iter().any(|ask| ask.line == line.line);
        let kept = |line: &&LineState<'a>| {
            !wish.whole && (open(line) > 0 || !line.shipped.is_zero() || named(line))
        };
        let wanted: Vec<_> = record.lines.iter().filter(kept).map(Wanted::of).collect();
        let now = lines(wanted.clone(), &record.shipped);
        Self {
            draft,
            freed,
            shipped: &record.shipped,
            before: &record.lines,
            wanted,
            now,
        }
    }

    fn line(&mut self, ask: &AskLine<'a>, wish: Wish<'_, 'a>) -> LineJudged<'a> {
        let mut judged = LineJudged {
            numbers: numbers(wish.sku, ask, self.draft.decimals(), Reason::None),
            raised: false,
        };
        judged.numbers.reason = self
            .take(ask, wish.partial, &mut judged)
            .err()
            .unwrap_or(Reason::None);
        judged
    }

    /// Takes the line in, as far as stock allows if `partial`.
    fn take(
        &mut self,
        ask: &AskLine<'a>,
        partial: bool,
        judged: &mut LineJudged<'a>,
    ) -> Result<(), Reason> {
        if self.draft.sku().is_none() {
            return Err(Reason::UnknownSku);
        }
        let units = units(ask.quantity, self.draft.decimals())?;
        let location = self.location(ask)?;
        judged.numbers.location = Some(location.clone());
        let known = self
            .wanted
            .iter()
            .position(|wanted| wanted.is(ask.line, &location));
        let had = known
            .and_then(|i| self.wanted.get(i))
            .map_or(0, |wanted| wanted.asked);
        let asked = units
            .checked_add(ask.given_back.0)
            .ok_or(Reason::Overflow)?;
        let i = known.unwrap_or_else(|| {
            self.wanted.push(Wanted {
                line: ask.line,
                location: location.clone(),
                asked: 0,
                given_back: 0,
                confirmed: 0,
            });
            self.wanted.len() - 1
        });
        // Never lowered: what is asked less is given back later, after all is granted.
        let asked = asked.max(had);
        let short = self.try_line(i, asked, ask.given_back.0, &location);
        let fits = i64::try_from(i128::from(asked) - short)
            .unwrap_or(0)
            .max(had);
        // Less may fit than was asked before when ships move to this line: then nothing is raised.
        let available = (fits - ask.given_back.0).max(0);
        judged.numbers.available = Quantity(available);
        if short > 0 {
            let some =
                partial && fits > had && self.try_line(i, fits, ask.given_back.0, &location) == 0;
            if !some {
                self.undo_line(i, had);
                return Err(Reason::InsufficientStock);
            }
        }
        judged.raised = fits > had;
        if short > 0 {
            Err(Reason::InsufficientStock)
        } else {
            Ok(())
        }
    }

    /// Sets a line and says how much is missing for it, over all locations.
    fn try_line(&mut self, i: usize, asked: i64, given_back: i64, at: &Location<'_>) -> i128 {
        if let Some(wanted) = self.wanted.get_mut(i) {
            (wanted.asked, wanted.given_back) = (asked, given_back.min(asked));
        }
        self.now = lines(self.wanted.clone(), self.shipped);
        // Ships spread anew may leave more open elsewhere, too.
        let mut places: Vec<&str> = vec![at.as_str()];
        places.extend(self.now.iter().map(|line| line.location.as_str()));
        places.sort_unstable();
        places.dedup();
        places.iter().map(|place| (-self.left(place)).max(0)).sum()
    }

    fn undo_line(&mut self, i: usize, had: i64) {
        if let Some(wanted) = self.wanted.get_mut(i) {
            let known = self
                .before
                .iter()
                .find(|line| wanted.is(line.line, &line.location));
            wanted.asked = had;
            wanted.given_back = known.map_or(0, |line| line.given_back.0).min(had);
        }
        self.now = lines(self.wanted.clone(), self.shipped);
    }

    /// What is left to grant at a location after what the lines take so far. Where they take nothing
    /// more than before, nothing is missing, however far below zero it is.
    fn left(&self, location: &str) -> i128 {
        let held = |lines: &[LineState<'_>]| -> i128 {
            let there = lines
                .iter()
                .filter(|line| line.location.as_str() == location);
            there.map(|line| i128::from(open(line))).sum()
        };
        let more = held(&self.now) - held(self.before);
        if more <= 0 {
            0
        } else {
            self.grantable(location) - more
        }
    }

    fn grantable(&self, location: &str) -> i128 {
        let freed = self
            .freed
            .iter()
            .find(|(at, _)| at == location)
            .map_or(0, |(_, sum)| *sum);
        grantable(&self.draft.figures_at(location)) + freed
    }

    /// Where the line is held: as named, as before, or where most is available, ties in byte order.
    fn location(&self, ask: &AskLine<'a>) -> Result<Location<'a>, Reason> {
        if let Some(named) = &ask.location {
            // Known through another SKU: of this one 0 is available there.
            return if self.draft.knows_location(named.as_str()) {
                Ok(named.clone())
            } else {
                Err(Reason::UnknownLocation)
            };
        }
        if let Some(before) = self.wanted.iter().find(|wanted| wanted.line == ask.line) {
            return Ok(before.location.clone());
        }
        let mut best: Option<(&str, i128)> = None;
        for (location, _) in self.draft.levels() {
            let taken: i128 = {
                let there = self
                    .now
                    .iter()
                    .filter(|line| line.location.as_str() == location);
                let before = self
                    .before
                    .iter()
                    .filter(|line| line.location.as_str() == location);
                there.map(|line| i128::from(open(line))).sum::<i128>()
                    - before.map(|line| i128::from(open(line))).sum::<i128>()
            };
            let left = self.grantable(location) - taken.max(0);
            if best.is_none_or(|(_, most)| left > most) {
                best = Some((location, left));
            }
        }
        best.map(|(location, _)| Location::from(location.to_owned()))
            .ok_or(Reason::InsufficientStock)
    }
}

/// The numbers of a line of which nothing can be granted. Where the item cannot express the amount, it
/// stands as it was sent.
pub(crate) fn numbers<'a>(
    sku: &Sku<'a>,
    ask: &AskLine<'a>,
    decimals: u8,
    reason: Reason,
) -> LineNumbers<'a> {
    let (requested, decimals) = ask.quantity.shown(decimals);
    LineNumbers {
        line: ask.line,
        sku: sku.clone(),
        location: ask.location.clone(),
        decimals,
        requested,
        available: Quantity::ZERO,
        reason,
    }
}

/// An amount above 0 in the item's smallest units.
///
/// # Errors
/// [`Reason::OutOfRange`], [`Reason::Decimals`] or [`Reason::Overflow`].
pub(crate) fn units(amount: Amount, decimals: u8) -> Result<i64, Reason> {
    if amount.mantissa <= 0 {
        return Err(Reason::OutOfRange);
    }
    let too_fine = Reason::Decimals;
    let too_large = Reason::Overflow;
    let unfit = if amount.decimals > decimals {
        too_fine
    } else {
        too_large
    };
    amount
        .to_units(decimals)
        .map(|quantity| quantity.0)
        .ok_or(unfit)
}
