//! Holds, at the owner of the SKU: what each reservation keeps of it.

use crate::Window;
use crate::pack::{Decision, fingerprint};
use crate::report::{About, Findings, Invariant};
use crate::stock::Stock;
use crate::table::Table;
use crate::wire::{AskKind, Body, HoldRecord, Input, LineState, Outcome, SendWhat};

/// A line as it stands, with its names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Line {
    pub(crate) line: u32,
    pub(crate) location: Box<str>,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) shipped: i64,
    pub(crate) given_back: i64,
}

impl Line {
    pub(crate) fn of(line: &LineState<'_>) -> Self {
        Self {
            line: line.line,
            location: line.location.into(),
            reserved: line.reserved,
            committed: line.committed,
            shipped: line.shipped,
            given_back: line.given_back,
        }
    }

    fn open(&self) -> i128 {
        i128::from(self.reserved) + i128::from(self.committed)
    }
}

/// A reservation's lines on one SKU.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) sku: Box<str>,
    pub(crate) reservation: Box<str>,
    pub(crate) lines: Vec<Line>,
    pub(crate) undecided: bool,
    /// Everything that was ever shipped for it.
    shipped: i128,
    /// Of its record, as it stands in the decision.
    pub(crate) bytes_hash: u64,
    at: i64,
}

impl Hold {
    pub(crate) fn open(&self) -> i128 {
        self.lines.iter().map(Line::open).sum()
    }

    pub(crate) fn reserved(&self) -> i128 {
        self.lines
            .iter()
            .map(|line| i128::from(line.reserved))
            .sum()
    }

    fn ended_shipped(&self) -> i128 {
        self.lines.iter().map(|line| i128::from(line.shipped)).sum()
    }

    fn given_back(&self) -> i128 {
        self.lines
            .iter()
            .map(|line| i128::from(line.given_back))
            .sum()
    }
}

/// All holds of a partition's SKUs.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    pub(crate) all: Table<Hold>,
}

pub(crate) fn hold_key(sku: &str, reservation: &str) -> u128 {
    fingerprint(&[sku.as_bytes(), reservation.as_bytes()])
}

impl Holds {
    /// Checks what a decision says of holds, and takes it over.
    pub(crate) fn take(
        &mut self,
        decision: &Decision<'_>,
        stock: &mut Stock,
        window: &Window,
        findings: &mut Findings,
    ) {
        let Some(sku) = decision.sku() else {
            if !decision.holds.is_empty() {
                let what = "it is about no SKU, and yet a hold changed".to_owned();
                findings.add(Invariant::HoldsAreCounted, About::default(), what);
            }
            return;
        };
        let mut met = 0;
        let is_crowded = self.all.len() as u64 >= window.ids_max;
        for spanned in &decision.holds {
            let record = &spanned.value;
            let about = About::reservation(record.reservation).with_sku(sku);
            check_record(decision, record, about, findings);
            let key = hold_key(sku, record.reservation);
            let hash = crate::pack::content_of(spanned.bytes);
            let new = Hold {
                sku: sku.into(),
                reservation: record.reservation.into(),
                lines: record.lines.iter().map(Line::of).collect(),
                undecided: record.undecided.iter().any(|quantity| *quantity > 0)
                    || record.waiting.is_some(),
                shipped: record
                    .shipped
                    .iter()
                    .map(|directed| i128::from(directed.quantity))
                    .sum(),
                bytes_hash: hash,
                at: decision.at,
            };
            let old = self.all.get(&key);
            met += check_change(
                decision,
                record,
                old,
                &new,
                (window, is_crowded),
                about,
                findings,
            );
            for (line, sign) in old
                .iter()
                .flat_map(|old| &old.lines)
                .map(|line| (line, -1))
                .chain(new.lines.iter().map(|line| (line, 1)))
            {
                if line.open() != 0 {
                    let position = stock.position(sku, &line.location);
                    position.held_reserved += sign * i128::from(line.reserved);
                    position.held_committed += sign * i128::from(line.committed);
                }
            }
            let nothing =
                record.lines.is_empty() && record.shipped.is_empty() && record.waiting.is_none();
            if nothing {
                self.all.remove(&key);
            } else {
                self.all.insert(key, new);
            }
        }
        check_met(decision, sku, met, findings);
        check_sums(decision, sku, stock, findings);
        self.check_answers(decision, sku, findings);
    }

    /// What is told to the owner of a reservation is what stands here.
    fn check_answers(&self, decision: &Decision<'_>, sku: &str, findings: &mut Findings) {
        for sent in &decision.sends {
            let SendWhat::Answer(answer) = &sent.what else {
                continue;
            };
            let hold = self.all.get(&hold_key(answer.sku, answer.reservation));
            let held = hold.map_or(&[][..], |hold| &hold.lines);
            let told: Vec<Line> = answer.lines.iter().map(Line::of).collect();
            if answer.sku != sku || told != held {
                let what = format!("its owner is told {told:?}, the holds are {held:?}");
                let about = About::reservation(answer.reservation).with_sku(answer.sku);
                findings.add(Invariant::HoldsHaveReason, about, what);
            }
        }
    }
}

fn check_record(
    decision: &Decision<'_>,
    record: &HoldRecord<'_>,
    about: About<'_>,
    findings: &mut Findings,
) {
    if record.number != decision.number || record.at != decision.at {
        let what = format!(
            "the hold says decision {} at {}, it stands in {} at {}",
            record.number, record.at, decision.number, decision.at
        );
        findings.add(Invariant::Numbering, about, what);
    }
    let mut before = None;
    for line in &record.lines {
        check_line(
            line.asked,
            [line.reserved, line.committed, line.shipped, line.given_back],
            line.line,
            about,
            findings,
        );
        let order = (line.line, line.location);
        if before.is_some_and(|before| before >= order) {
            let what = format!("line {} stands twice or out of order", line.line);
            findings.add(Invariant::UnitsEndOnce, about, what);
        }
        before = Some(order);
    }
    let fits = record.undecided.is_empty()
        || (record.undecided.len() == record.lines.len()
            && record
                .undecided
                .iter()
                .zip(&record.lines)
                .all(|(undecided, line)| (0..=line.reserved).contains(undecided)));
    if !fits {
        let what = format!(
            "undecided parts {:?} are no parts of what is reserved",
            record.undecided
        );
        findings.add(Invariant::HoldsHaveReason, about, what);
    }
}

/// `asked = reserved + committed + shipped + given_back`, each 0 or more.
pub(crate) fn check_line(
    asked: i64,
    parts: [i64; 4],
    line: u32,
    about: About<'_>,
    findings: &mut Findings,
) {
    let sum: i128 = parts.iter().map(|part| i128::from(*part)).sum();
    if sum != i128::from(asked) || parts.iter().any(|part| *part < 0) {
        let what = format!(
            "line {line}: {asked} were asked; reserved, committed, shipped and given back are {parts:?}"
        );
        findings.add(Invariant::UnitsEndOnce, about, what);
    }
}

/// From one statement of a reservation's lines to the next. Says how much of the open lines a ship
/// ended.
fn check_change(
    decision: &Decision<'_>,
    record: &HoldRecord<'_>,
    old: Option<&Hold>,
    new: &Hold,
    (window, is_crowded): (&Window, bool),
    about: About<'_>,
    findings: &mut Findings,
) -> i128 {
    // Ended records are kept as long as names, then the reservation is a new one.
    let forgotten = old.is_some_and(|old| {
        let age = decision.at.saturating_sub(old.at);
        old.open() == 0 && (is_crowded || age >= window.ids_age_ms)
    });
    let shipped_before = old.map_or(0, |old| old.shipped);
    let shipped_now = match (&decision.input, &decision.outcome) {
        (Input::Command(command), Some(Outcome::Applied(_))) => match &command.body {
            Body::Ship {
                fact,
                reservation: Some(reservation),
                ..
            } if *reservation == record.reservation => {
                fact.quantity.units(decision.decimals).unwrap_or(0)
            }
            _ => 0,
        },
        _ => 0,
    };
    let expected = shipped_before + shipped_now;
    if new.shipped != expected && !(forgotten && new.shipped == shipped_now) {
        let what = format!(
            "{expected} have shipped for it in all, the hold's record knows of {}",
            new.shipped
        );
        findings.add(Invariant::UnitsEndOnce, about, what);
    }
    // What has shipped fills the lines: as much of it as they can take.
    let room: i128 = record
        .lines
        .iter()
        .map(|line| i128::from(line.asked) - i128::from(line.given_back))
        .sum();
    if new.ended_shipped() != room.min(new.shipped) {
        let what = format!(
            "{} have shipped and the lines have room for {room}; they say {}",
            new.shipped,
            new.ended_shipped()
        );
        findings.add(Invariant::UnitsEndOnce, about, what);
    }
    let Some(old) = old.filter(|_| !forgotten) else {
        return 0;
    };
    // Only a statement of the lines anew may lower what was given back.
    let anew = match &decision.input {
        Input::Ask(ask) => matches!(ask.kind, AskKind::Hold { .. } | AskKind::Restore { .. }),
        _ => false,
    };
    if !anew && new.given_back() < old.given_back() {
        let what = format!(
            "{} were given back before, now {}",
            old.given_back(),
            new.given_back()
        );
        findings.add(Invariant::UnitsEndOnce, about, what);
    }
    if shipped_now > 0 {
        old.open() - new.open()
    } else {
        0
    }
}

/// A ship that names a reservation says how much of it met a hold.
fn check_met(decision: &Decision<'_>, sku: &str, met: i128, findings: &mut Findings) {
    let (Input::Command(command), Some(Outcome::Applied(notes))) =
        (&decision.input, &decision.outcome)
    else {
        return;
    };
    let Body::Ship {
        reservation: Some(reservation),
        ..
    } = &command.body
    else {
        return;
    };
    if notes.hold.map(i128::from) != Some(met) {
        let what = format!(
            "{met} of the ship ended open lines, its outcome says {:?}",
            notes.hold
        );
        let about = About::reservation(reservation).with_sku(sku);
        findings.add(Invariant::UnitsEndOnce, about, what);
    }
}

/// Open holds are the reserved and committed of every position that the decision speaks of.
fn check_sums(decision: &Decision<'_>, sku: &str, stock: &mut Stock, findings: &mut Findings) {
    let in_holds = decision.holds.iter().flat_map(|hold| &hold.value.lines);
    let names = decision
        .locations
        .iter()
        .copied()
        .chain(in_holds.map(|line| line.location));
    let mut seen: Vec<&str> = Vec::new();
    for location in names {
        if seen.contains(&location) {
            continue;
        }
        seen.push(location);
        let key = crate::stock::position_key(sku, location);
        let Some(position) = stock.positions.get_mut(&key) else {
            continue;
        };
        let held = (position.held_reserved, position.held_committed);
        let level = (position.now.reserved, position.now.committed);
        if held != level {
            let what = format!(
                "open holds add up to {} reserved and {} committed, the level says {} and {}",
                held.0, held.1, level.0, level.1
            );
            findings.add(Invariant::HoldsAreCounted, About::at(sku, location), what);
            (position.held_reserved, position.held_committed) = level;
        }
    }
}
