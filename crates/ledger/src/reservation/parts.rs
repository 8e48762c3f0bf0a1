//! Which parts of which lines a `confirm` or a `release` takes, or why it takes none.

use crate::command::{AskPart, LinePart};
use crate::decision::{LineNumbers, Reason, Rejection};
use crate::reservation::{GivenBackBy, ReservationLine, ReservationRecord, Status};
use crate::values::{Quantity, Sku};

/// Parts per SKU, in byte order of SKU. Empty: it has happened already.
pub(crate) type Parts<'a> = Vec<(Sku<'a>, Vec<AskPart<'a>>)>;

/// What the parts are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Of {
    Confirm,
    Release,
}

impl Of {
    /// How much of a line it can still take.
    fn takes(self, line: &ReservationLine<'_>) -> i64 {
        match self {
            Self::Confirm => line.reserved.0,
            Self::Release => line.open(),
        }
    }
}

/// The parts that a command names, or all that is open.
pub(crate) fn parts<'a>(
    record: &ReservationRecord<'a>,
    of: Of,
    named: Option<&[LinePart]>,
) -> Result<Parts<'a>, Rejection<'a>> {
    let Some(named) = named else {
        return all(record, of);
    };
    let mut taken = Vec::new();
    let mut numbers = Vec::new();
    let mut first = Reason::None;
    for part in named {
        let (numbers_of_part, line) = one(record, of, part, &mut taken);
        if first == Reason::None {
            first = numbers_of_part;
        }
        numbers.push(line);
    }
    if first != Reason::None {
        return Err(Rejection {
            reason: first,
            lines: numbers,
        });
    }
    Ok(by_sku(taken))
}

/// Everything that is open.
fn all<'a>(record: &ReservationRecord<'a>, of: Of) -> Result<Parts<'a>, Rejection<'a>> {
    let expired = || {
        let by_expiry =
            |line: &ReservationLine<'_>| line.given_back_by == Some(GivenBackBy::Expiry);
        record.lines.iter().any(by_expiry)
    };
    let refusal = match (of, record.status) {
        (_, Status::Expired) => Some(Reason::Expired),
        (_, Status::Rejected) => Some(Reason::NothingOpen),
        (Of::Confirm, Status::Released) => Some(Reason::Released),
        (Of::Release, Status::Fulfilled) => Some(Reason::Fulfilled),
        // What was left of it has expired: whoever confirms all of it must not read success.
        (Of::Confirm, Status::Confirmed | Status::Fulfilled) if expired() => Some(Reason::Expired),
        _ => None,
    };
    if let Some(reason) = refusal {
        return Err(Rejection {
            reason,
            lines: Vec::new(),
        });
    }
    let open = record.lines.iter().filter(|line| of.takes(line) > 0);
    Ok(by_sku(
        open.filter_map(|line| part(line, of.takes(line))).collect(),
    ))
}

/// One part: the reason why not, if there is one, and its numbers.
fn one<'a>(
    record: &ReservationRecord<'a>,
    of: Of,
    named: &LinePart,
    taken: &mut Vec<(Sku<'a>, AskPart<'a>)>,
) -> (Reason, LineNumbers<'a>) {
    // Should a number stand twice, the one that something can be taken of is meant.
    let lines = || record.lines.iter().filter(|line| line.line == named.line);
    let found = lines()
        .find(|line| of.takes(line) > 0)
        .or_else(|| lines().next());
    let Some(line) = found else {
        let unknown = LineNumbers {
            line: named.line,
            sku: Sku::from(""),
            location: None,
            decimals: 0,
            requested: Quantity::ZERO,
            available: Quantity::ZERO,
            reason: Reason::UnknownLine,
        };
        return (Reason::UnknownLine, unknown);
    };
    let takes = of.takes(line);
    let (asked, reason) = match named.quantity {
        None if takes > 0 => (takes, Reason::None),
        None => (0, nothing_left(record, line, of, 0)),
        Some(amount) => match amount.to_units(line.decimals) {
            None if amount.decimals > line.decimals => (0, Reason::Decimals),
            None => (0, Reason::Overflow),
            Some(Quantity(asked)) if asked <= takes => (asked, Reason::None),
            Some(Quantity(asked)) if takes > 0 => (asked, Reason::MoreThanOpen),
            Some(Quantity(asked)) => (asked, nothing_left(record, line, of, asked)),
        },
    };
    if reason == Reason::None && takes > 0 {
        taken.extend(part(line, asked));
    }
    let (requested, available, decimals) = match named.quantity {
        Some(amount) => amount.shown_beside(Quantity(takes), line.decimals),
        None => (Quantity(asked), Quantity(takes), line.decimals),
    };
    let numbers = LineNumbers {
        line: named.line,
        sku: line.sku.clone(),
        location: line.location.clone(),
        decimals,
        requested,
        available,
        reason,
    };
    (reason, numbers)
}

/// Nothing can be taken of the line any more: either so much has happened to it already, or this is
/// the reason why it cannot.
fn nothing_left(
    record: &ReservationRecord<'_>,
    line: &ReservationLine<'_>,
    of: Of,
    asked: i64,
) -> Reason {
    let given_back = line.given_back.0;
    let by = line.given_back_by.filter(|_| given_back > 0);
    match of {
        Of::Confirm if line.done() > 0 && line.done() >= asked => match by {
            // All of the line was meant, and a part of it has expired.
            Some(GivenBackBy::Expiry) if asked == 0 => Reason::Expired,
            _ => Reason::None,
        },
        Of::Release if by == Some(GivenBackBy::Release) && given_back >= asked => Reason::None,
        Of::Release if line.shipped.0 > 0 => Reason::Fulfilled,
        _ => match (by, record.status) {
            (Some(GivenBackBy::Expiry), _) => Reason::Expired,
            (Some(GivenBackBy::Release), _) => Reason::Released,
            _ if line.done() > 0 => Reason::MoreThanOpen,
            _ => Reason::NothingOpen,
        },
    }
}

pub(crate) fn part<'a>(
    line: &ReservationLine<'a>,
    quantity: i64,
) -> Option<(Sku<'a>, AskPart<'a>)> {
    let location = line.location.clone()?;
    let part = AskPart {
        line: line.line,
        location,
        quantity: Quantity(quantity),
    };
    Some((line.sku.clone(), part))
}

/// Gathers parts by SKU, in byte order.
pub(crate) fn by_sku<'a, T>(list: Vec<(Sku<'a>, T)>) -> Vec<(Sku<'a>, Vec<T>)> {
    let mut gathered: Vec<(Sku<'a>, Vec<T>)> = Vec::new();
    for (sku, item) in list {
        match gathered.binary_search_by(|(known, _)| known.cmp(&sku)) {
            Ok(i) => gathered
                .get_mut(i)
                .expect("it was found there")
                .1
                .push(item),
            Err(i) => gathered.insert(i, (sku, vec![item])),
        }
    }
    gathered
}
