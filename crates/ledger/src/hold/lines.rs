//! What a reservation's lines on a SKU come to, as a function of the set of what is known of them.
//!
//! Each line takes what has shipped for it up to its room (`asked - given_back`): first what was
//! directed at the line, then what was directed at its location; what is over, or was directed
//! elsewhere, fills the lines in order. What has not shipped is open; of that, so much is committed as
//! was confirmed and has not shipped yet, the rest is reserved.

use crate::decision::{LineState, Reason};
use crate::hold::{Directed, ShipTarget, TARGETS_MAX};
use crate::values::{Location, Quantity};

/// A line before it is known what of it has shipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) line: u32,
    pub(crate) location: Location<'a>,
    /// 0 or more.
    pub(crate) asked: i64,
    /// 0 to `asked`.
    pub(crate) given_back: i64,
    /// Committed or shipped so far: so much of what is open again is committed.
    pub(crate) confirmed: i64,
}

impl<'a> Wanted<'a> {
    /// The line as it stands.
    pub(crate) fn of(line: &LineState<'a>) -> Self {
        Self {
            line: line.line,
            location: line.location.clone(),
            asked: line.asked.0,
            given_back: line.given_back.0,
            // Each is a part of `asked`, and so is their sum.
            confirmed: line.committed.0 + line.shipped.0,
        }
    }

    fn room(&self) -> i64 {
        self.asked - self.given_back
    }

    /// Whether it is that line.
    pub(crate) fn is(&self, line: u32, location: &Location<'_>) -> bool {
        self.line == line && self.location.as_str() == location.as_str()
    }
}

/// The lines, in order, with what has shipped spread over them. Lines of which nothing was asked are
/// left out.
pub(crate) fn lines<'a>(
    mut wanted: Vec<Wanted<'a>>,
    shipped: &[Directed<'_>],
) -> Vec<LineState<'a>> {
    wanted.retain(|line| line.asked > 0);
    wanted.sort_by(|a, b| (a.line, &a.location).cmp(&(b.line, &b.location)));
    let mut taken = vec![0i64; wanted.len()];
    // More may have shipped than fits 64 bits: a sum of many totals.
    let mut over = 0i128;
    // Totals stand in order of target: lines before locations before any.
    for directed in shipped {
        let mut left = directed.quantity.0;
        for (line, taken) in wanted.iter().zip(&mut taken) {
            let meant = match &directed.to {
                ShipTarget::Line(number) => line.line == *number,
                ShipTarget::Location(location) => line.location.as_str() == location.as_str(),
                ShipTarget::Any => false,
            };
            if meant {
                let takes = left.min(line.room() - *taken);
                *taken += takes;
                left -= takes;
            }
        }
        over += i128::from(left);
    }
    for (line, taken) in wanted.iter().zip(&mut taken) {
        let takes = i64::try_from(over)
            .unwrap_or(i64::MAX)
            .min(line.room() - *taken);
        *taken += takes;
        over -= i128::from(takes);
    }
    let state = |(line, shipped): (Wanted<'a>, i64)| {
        let open = line.room() - shipped;
        let committed = line.confirmed.saturating_sub(shipped).clamp(0, open);
        LineState {
            line: line.line,
            location: line.location,
            asked: Quantity(line.asked),
            reserved: Quantity(open - committed),
            committed: Quantity(committed),
            shipped: Quantity(shipped),
            given_back: Quantity(line.given_back),
        }
    };
    wanted.into_iter().zip(taken).map(state).collect()
}

/// Adds to the totals shipped.
///
/// # Errors
/// [`Reason::Overflow`] when a total would leave its range; nothing is added then.
pub(crate) fn direct<'a>(
    shipped: &mut Vec<Directed<'a>>,
    to: ShipTarget<'a>,
    quantity: Quantity,
) -> Result<(), Reason> {
    let known = shipped.binary_search_by(|directed| directed.to.cmp(&to));
    let full = known.is_err() && shipped.len() >= TARGETS_MAX && to != ShipTarget::Any;
    if full {
        return direct(shipped, ShipTarget::Any, quantity);
    }
    match known {
        Ok(i) => {
            let total = shipped.get_mut(i).expect("it was found there");
            total.quantity = total
                .quantity
                .checked_add(quantity)
                .ok_or(Reason::Overflow)?;
        }
        Err(i) => shipped.insert(i, Directed { to, quantity }),
    }
    Ok(())
}

/// What is open of a line.
pub(crate) fn open(line: &LineState<'_>) -> i64 {
    line.reserved.0 + line.committed.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: u32, location: &'static str, asked: i64) -> Wanted<'static> {
        Wanted {
            line,
            location: location.into(),
            asked,
            given_back: 0,
            confirmed: 0,
        }
    }

    fn shipped(list: &[(ShipTarget<'static>, i64)]) -> Vec<Directed<'static>> {
        let mut totals = Vec::new();
        for (to, quantity) in list {
            direct(&mut totals, to.clone(), Quantity(*quantity)).unwrap();
        }
        totals
    }

    fn figures(lines: &[LineState<'_>]) -> Vec<(u32, i64, i64, i64)> {
        lines
            .iter()
            .map(|l| (l.line, l.reserved.0, l.committed.0, l.shipped.0))
            .collect()
    }

    #[test]
    fn a_ship_ends_the_line_it_names_then_the_others_in_order() {
        let asked = vec![wanted(1, "a", 5), wanted(2, "b", 5), wanted(3, "c", 5)];
        let two = lines(asked.clone(), &shipped(&[(ShipTarget::Line(2), 7)]));
        assert_eq!(figures(&two), [(1, 3, 0, 2), (2, 0, 0, 5), (3, 5, 0, 0)]);
        let there = lines(
            asked.clone(),
            &shipped(&[(ShipTarget::Location("c".into()), 1)]),
        );
        assert_eq!(figures(&there), [(1, 5, 0, 0), (2, 5, 0, 0), (3, 4, 0, 1)]);
        let nowhere = lines(asked, &shipped(&[(ShipTarget::Location("z".into()), 99)]));
        assert_eq!(
            figures(&nowhere),
            [(1, 0, 0, 5), (2, 0, 0, 5), (3, 0, 0, 5)]
        );
    }

    #[test]
    fn committed_ends_before_reserved() {
        let line = Wanted {
            confirmed: 3,
            ..wanted(1, "a", 5)
        };
        let after = |n| {
            figures(&lines(
                vec![line.clone()],
                &shipped(&[(ShipTarget::Line(1), n)]),
            ))
        };
        assert_eq!(after(2), [(1, 2, 1, 2)]);
        assert_eq!(after(4), [(1, 1, 0, 4)]);
        assert_eq!(after(9), [(1, 0, 0, 5)]);
    }

    #[test]
    fn targets_above_the_bound_fill_the_lines_in_order() {
        let mut totals = Vec::new();
        for line in 1..=u32::try_from(TARGETS_MAX).unwrap() + 50 {
            direct(&mut totals, ShipTarget::Line(line), Quantity(1)).unwrap();
        }
        assert_eq!(totals.len(), TARGETS_MAX + 1);
        let all = lines(vec![wanted(1, "a", 1000)], &totals);
        assert_eq!(figures(&all), [(1, 750, 0, 250)]);
    }

    #[test]
    fn a_total_that_leaves_its_range_is_refused() {
        let mut totals = shipped(&[(ShipTarget::Line(1), i64::MAX)]);
        let before = totals.clone();
        let more = direct(&mut totals, ShipTarget::Line(1), Quantity(1));
        assert_eq!(more, Err(Reason::Overflow));
        assert_eq!(totals, before);
    }
}
