//! What becomes of a command: an outcome at once, or a step.

use crate::command::{AskKind, AskLine, RequestLine};
use crate::decision::{LineNumbers, Notes, Outcome, Reason, Rejection};
use crate::reservation::check::TTL_DEFAULT_S;
use crate::reservation::owner::Work;
use crate::reservation::parts::{Of, by_sku, part, parts};
use crate::reservation::{
    CommitKey, Heard, Phase, ReservationLine, ReservationRecord, Status, Taken, Wish,
};
use crate::values::{Amount, Quantity, Sku, Time};

/// How far `occurred_at` may be ahead of intake before the time of intake is taken instead, ms.
const AHEAD_MAX_MS: i64 = 60_000;

/// The command and its outcome, where it is over at once; `None`: a step is under way.
pub(crate) type Over<'a> = Option<(Taken<'a>, Outcome<'a>)>;

/// Asks of one step, one per SKU, in byte order of SKU.
pub(crate) type Asks<'a> = Vec<(Sku<'a>, AskKind<'a>)>;

/// Begins what a command wants. No step may be under way.
pub(crate) fn begin<'a>(work: &mut Work<'_, '_, 'a>, taken: Taken<'a>) -> Over<'a> {
    let outcome = match &taken.wish {
        Wish::Commit { .. } => return commit(work, taken),
        Wish::Reserve { .. } => return reserve(work, taken),
        Wish::Confirm { .. } | Wish::Release { .. } => return take_parts(work, taken),
        Wish::Extend { ttl_s } => extend(work, *ttl_s),
    };
    Some((taken, outcome))
}

fn rejected<'a>(reason: Reason) -> Outcome<'a> {
    Outcome::Rejected(Rejection {
        reason,
        lines: Vec::new(),
    })
}

/// When a command happened, and by how many seconds its clock was ahead, if it was too far.
pub(crate) fn happened_at(taken: &Taken<'_>) -> (Time, Option<u64>) {
    let occurred_at = taken.occurred_at.unwrap_or(taken.at);
    if occurred_at <= taken.at.plus(AHEAD_MAX_MS) {
        return (occurred_at, None);
    }
    let ahead_ms = occurred_at.0.saturating_sub(taken.at.0);
    (taken.at, u64::try_from(ahead_ms / 1_000).ok())
}

/// What is told of a commit that was applied. `created`: it was the first to name something.
pub(crate) fn commit_notes(taken: &Taken<'_>, created: bool) -> Notes {
    Notes {
        created,
        clock_ahead_s: happened_at(taken).1,
        ..Notes::default()
    }
}

pub(crate) fn commit_key<'a>(taken: &Taken<'a>) -> CommitKey<'a> {
    let (source, id) = (taken.source.clone(), taken.id.clone());
    CommitKey {
        occurred_at: happened_at(taken).0,
        source,
        id,
    }
}

fn commit<'a>(work: &mut Work<'_, '_, 'a>, taken: Taken<'a>) -> Over<'a> {
    let key = commit_key(&taken);
    let applied = Outcome::Applied(commit_notes(&taken, false));
    if let Some(record) = &mut work.record {
        if record.commit.as_ref().is_some_and(|known| *known >= key) {
            return Some((taken, applied));
        }
        if record.commit.is_some() && record.status == Status::Released {
            record.commit = Some(key.clone());
            record.conflict = Some(key);
            return Some((taken, applied));
        }
    }
    let record = work.record_or_new(&taken);
    let asks = hold_asks(
        record.status,
        &record.lines,
        record.released_at,
        &taken,
        false,
    );
    work.start(Some(taken), Phase::Hold, None, asks);
    None
}

fn reserve<'a>(work: &mut Work<'_, '_, 'a>, taken: Taken<'a>) -> Over<'a> {
    let Wish::Reserve { lines, .. } = &taken.wish else {
        return None;
    };
    if let Some(record) = &work.record {
        let refused = match record.status {
            _ if record.source != taken.source => Some(rejected(Reason::OtherSource)),
            Status::Released => Some(rejected(Reason::Released)),
            Status::Fulfilled => Some(rejected(Reason::Fulfilled)),
            Status::Rejected | Status::Expired => None,
            Status::Pending | Status::Granted | Status::Confirmed => {
                refuse_less(record, lines).map(Outcome::Rejected)
            }
        };
        if let Some(outcome) = refused {
            return Some((taken, outcome));
        }
    }
    let statement = lines.clone();
    let deadline = Some(work.at().plus(work.ask_timeout_ms()));
    let record = work.record_or_new(&taken);
    let anew = record.status.ended();
    let asks = hold_asks(record.status, &record.lines, None, &taken, false);
    work.start(Some(taken), Phase::Hold, deadline, asks);
    if anew {
        // What a reader sees of it while it is pending.
        let record = work.record_mut();
        record.lines = statement.iter().map(ReservationLine::new).collect();
    }
    if work.step().asks.is_empty() {
        work.grant();
    }
    None
}

/// A restated reservation cannot ask for less than what is confirmed or shipped.
fn refuse_less<'a>(
    record: &ReservationRecord<'a>,
    statement: &[RequestLine<'a>],
) -> Option<Rejection<'a>> {
    let mut numbers = Vec::new();
    let mut first = Reason::None;
    let mut note = |line: &ReservationLine<'a>, asked: Amount, reason: Reason| {
        if first == Reason::None {
            first = reason;
        }
        let (requested, available, decimals) =
            asked.shown_beside(Quantity(line.done()), line.decimals);
        numbers.push(LineNumbers {
            line: line.line,
            sku: line.sku.clone(),
            location: line.location.clone(),
            decimals,
            requested,
            available,
            reason,
        });
    };
    for line in &record.lines {
        match statement.iter().find(|request| line.is(request)) {
            None if line.done() > 0 => note(line, Amount::whole(0), Reason::LessThanDone),
            None => {}
            Some(request) => match request.quantity.to_units(line.decimals) {
                _ if line.asked.is_zero() => {}
                None => note(
                    line,
                    request.quantity,
                    unfit(request.quantity, line.decimals),
                ),
                Some(asked) if asked.0 < line.done() => {
                    note(line, request.quantity, Reason::LessThanDone);
                }
                Some(_) => {}
            },
        }
    }
    (first != Reason::None).then_some(Rejection {
        reason: first,
        lines: numbers,
    })
}

/// Why an amount is none of that item.
fn unfit(amount: Amount, decimals: u8) -> Reason {
    if amount.decimals > decimals {
        Reason::Decimals
    } else {
        Reason::Overflow
    }
}

/// What is asked of whom to hold what the command states, on a reservation that stands so. `in_order`:
/// behind others' undecided holds.
pub(crate) fn hold_asks<'a>(
    status: Status,
    lines: &[ReservationLine<'a>],
    released_at: Option<Time>,
    taken: &Taken<'a>,
    in_order: bool,
) -> Asks<'a> {
    let (statement, partial) = match &taken.wish {
        Wish::Commit {
            lines: statement, ..
        } => {
            // What was released of the order after this was stated stays released.
            let (stated_at, _) = happened_at(taken);
            let stays = !status.ended() && released_at.is_some_and(|at| at >= stated_at);
            return commit_asks(lines, statement, stays);
        }
        Wish::Reserve {
            lines: statement,
            partial,
            ..
        } => (statement, *partial),
        Wish::Confirm { .. } | Wish::Release { .. } | Wish::Extend { .. } => return Vec::new(),
    };
    let whole = status.ended();
    let mut asked = Vec::new();
    for request in statement {
        let known = lines.iter().find(|line| !whole && line.is(request));
        let units = known.and_then(|line| request.quantity.to_units(line.decimals));
        if let (Some(line), Some(units)) = (known, units)
            && units.0 <= line.net()
        {
            continue;
        }
        asked.push((request.sku.clone(), ask_line(request, known)));
    }
    let asked = by_sku(asked);
    let sole = asked.len() == 1;
    let kind = |lines| AskKind::Hold {
        lines,
        committed: false,
        partial,
        sole,
        waits: in_order,
        whole,
    };
    asked
        .into_iter()
        .map(|(sku, lines)| (sku, kind(lines)))
        .collect()
}

fn commit_asks<'a>(
    lines: &[ReservationLine<'a>],
    statement: &[RequestLine<'a>],
    stays: bool,
) -> Asks<'a> {
    let mut asked = Vec::new();
    for request in statement {
        let known = lines.iter().find(|line| stays && line.is(request));
        asked.push((request.sku.clone(), Some(ask_line(request, known))));
    }
    // A SKU that the order does not name any more: its lines fall to nothing.
    for line in lines {
        asked.push((line.sku.clone(), None));
    }
    let kind = |lines: Vec<Option<AskLine<'a>>>| AskKind::Hold {
        lines: lines.into_iter().flatten().collect(),
        committed: true,
        partial: false,
        sole: false,
        waits: false,
        whole: true,
    };
    by_sku(asked)
        .into_iter()
        .map(|(sku, lines)| (sku, kind(lines)))
        .collect()
}

fn ask_line<'a>(request: &RequestLine<'a>, known: Option<&ReservationLine<'a>>) -> AskLine<'a> {
    let before = known.and_then(|line| line.location.clone());
    AskLine {
        line: request.line,
        quantity: request.quantity,
        location: request.location.clone().or(before),
        given_back: known.map_or(Quantity::ZERO, |line| line.given_back),
    }
}

/// What a restated reservation asks no more of what is held.
pub(crate) fn lower_asks<'a>(
    lines: &[ReservationLine<'a>],
    statement: &[RequestLine<'a>],
) -> Asks<'a> {
    let mut less = Vec::new();
    for line in lines {
        let asked = statement.iter().find(|request| line.is(request));
        let asked = asked.map_or(Some(Quantity::ZERO), |a| a.quantity.to_units(line.decimals));
        // An amount that does not fit was refused before.
        let too_much = asked
            .map_or(0, |asked| line.net().saturating_sub(asked.0))
            .min(line.reserved.0);
        if too_much > 0 {
            less.extend(part(line, too_much));
        }
    }
    let kind = |parts| AskKind::GiveBack { lines: Some(parts) };
    by_sku(less)
        .into_iter()
        .map(|(sku, parts)| (sku, kind(parts)))
        .collect()
}

fn take_parts<'a>(work: &mut Work<'_, '_, 'a>, taken: Taken<'a>) -> Over<'a> {
    let (of, named) = match &taken.wish {
        Wish::Confirm { lines } => (Of::Confirm, lines),
        Wish::Release { lines } => (Of::Release, lines),
        Wish::Commit { .. } | Wish::Reserve { .. } | Wish::Extend { .. } => return None,
    };
    let Some(record) = &work.record else {
        return Some((taken, rejected(Reason::UnknownReservation)));
    };
    let whole = named.is_none();
    let parts = match parts(record, of, named.as_deref()) {
        Ok(parts) if parts.is_empty() => {
            return Some((taken, Outcome::Applied(Notes::default())));
        }
        Ok(parts) => parts,
        Err(refusal) => return Some((taken, Outcome::Rejected(refusal))),
    };
    let kind = |parts| match of {
        Of::Confirm => AskKind::Confirm { lines: parts },
        Of::Release if whole => AskKind::GiveBack { lines: None },
        Of::Release => AskKind::GiveBack { lines: Some(parts) },
    };
    let phase = match of {
        Of::Confirm => Phase::Confirm,
        Of::Release => Phase::Release,
    };
    let asks = parts
        .into_iter()
        .map(|(sku, parts)| (sku, kind(parts)))
        .collect();
    work.start(Some(taken), phase, None, asks);
    None
}

fn extend<'a>(work: &mut Work<'_, '_, 'a>, ttl_s: Option<u32>) -> Outcome<'a> {
    let at = work.at();
    let Some(record) = &mut work.record else {
        return rejected(Reason::UnknownReservation);
    };
    match record.status {
        Status::Released => return rejected(Reason::Released),
        Status::Expired => return rejected(Reason::Expired),
        Status::Fulfilled => return rejected(Reason::Fulfilled),
        Status::Rejected => return rejected(Reason::NothingOpen),
        // What is confirmed has no expiry: it lasts longer than anybody can ask.
        Status::Confirmed | Status::Pending => {}
        Status::Granted => {
            let later = expiry(at, ttl_s);
            record.expires_at = Some(record.expires_at.map_or(later, |before| before.max(later)));
        }
    }
    Outcome::Applied(Notes::default())
}

/// When a hold granted or extended now expires.
pub(crate) fn expiry(at: Time, ttl_s: Option<u32>) -> Time {
    at.plus(i64::from(ttl_s.unwrap_or(TTL_DEFAULT_S)) * 1_000)
}

/// Gives back what is reserved, because its time has passed. Says whether a step is under way.
pub(crate) fn expire(work: &mut Work<'_, '_, '_>) -> bool {
    let Some(record) = &mut work.record else {
        return false;
    };
    record.expires_at = None;
    let reserved = record.lines.iter().filter(|line| line.reserved.0 > 0);
    let parts = by_sku(
        reserved
            .filter_map(|line| part(line, line.reserved.0))
            .collect(),
    );
    if parts.is_empty() {
        return false;
    }
    let kind = |parts| AskKind::GiveBack { lines: Some(parts) };
    let asks = parts
        .into_iter()
        .map(|(sku, parts)| (sku, kind(parts)))
        .collect();
    work.start(None, Phase::Expire, None, asks);
    true
}

/// Gives back what is held though nothing says that it should be. Says whether a step is under way.
pub(crate) fn tidy(work: &mut Work<'_, '_, '_>) -> bool {
    let Some(record) = &work.record else {
        return false;
    };
    let ended = record.ended_at.is_some();
    let excess = |line: &ReservationLine<'_>| {
        if ended || line.requested.mantissa == 0 {
            line.open()
        } else if record.expires_at.is_none() {
            line.reserved.0
        } else {
            0
        }
    };
    let over = record.lines.iter().filter(|line| excess(line) > 0);
    let parts = by_sku(over.filter_map(|line| part(line, excess(line))).collect());
    if parts.is_empty() {
        return false;
    }
    let kind = |parts| AskKind::GiveBack { lines: Some(parts) };
    let asks = parts
        .into_iter()
        .map(|(sku, parts)| (sku, kind(parts)))
        .collect();
    work.start(None, Phase::Tidy, None, asks);
    true
}

impl Heard {
    /// It has been asked and has not answered.
    pub(crate) fn outstanding(self) -> bool {
        self == Self::Nothing
    }

    /// It has been done as asked.
    pub(crate) fn is_done(self) -> bool {
        matches!(self, Self::Done | Self::Created)
    }
}
