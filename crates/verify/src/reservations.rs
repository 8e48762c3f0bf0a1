//! Reservations, at their owner, and the outcomes of the commands that they are about.

use std::collections::BTreeSet;

use onhand_log::partition_of;

use crate::holds::{Line, check_line};
use crate::names::Names;
use crate::pack::{Decision, content_of, fingerprint, name_of};
use crate::partition::DeadLetter;
use crate::report::{About, Findings, Invariant};
use crate::table::{Numbered, Table};
use crate::wire::{
    Answer, Body, Command, DecidedBy, Input, LineState, Outcome, ReservationLine,
    ReservationRecord, Resolved, Status,
};

/// Reservations that expire in one decision at most: with as many in it, the rest may still be due. So
/// it may when their records are large: with so many bytes of them.
const DUE_MAX: usize = 256;
const DUE_BYTES: usize = 128 << 10;

/// A reservation as its owner stated it last.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub(crate) id: Box<str>,
    pub(crate) has_step: bool,
    pub(crate) expires_at: Option<i64>,
    /// By SKU, those with something open.
    pub(crate) open: Vec<(Box<str>, Line)>,
    /// How far the owners of its lines in other partitions had come.
    decided_by: Box<[DecidedBy]>,
    pub(crate) bytes_hash: u64,
}

/// A command whose outcome is still to come.
#[derive(Clone, Debug)]
struct Pending {
    name: u128,
    reservation: Box<str>,
    asks: Asks,
    /// How it is to be kept should it be parked.
    letter: DeadLetter,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    Fact,
    Whole,
    Partial,
    Other,
}

impl Asks {
    fn of(body: &Body<'_>) -> Self {
        match body {
            Body::Commit { .. } => Self::Fact,
            Body::Reserve { partial: false, .. } => Self::Whole,
            Body::Reserve { partial: true, .. } => Self::Partial,
            _ => Self::Other,
        }
    }
}

/// All reservations of a partition.
#[derive(Debug)]
pub(crate) struct Reservations {
    partitions: u16,
    pub(crate) all: Table<Reservation>,
    pending: Numbered<Pending>,
    /// By expiry, those without a step under way.
    due: BTreeSet<(i64, u128)>,
    /// Log time of the last decision.
    log_time: Option<i64>,
}

pub(crate) fn reservation_key(id: &str) -> u128 {
    fingerprint(&[id.as_bytes()])
}

impl Reservations {
    /// Those of a partition of a log with so many.
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            partitions,
            all: Table::default(),
            pending: Numbered::default(),
            due: BTreeSet::new(),
            log_time: None,
        }
    }

    /// Checks what a decision says of reservations, and takes it over.
    pub(crate) fn take(
        &mut self,
        decision: &Decision<'_>,
        letter: impl FnOnce(&Decision<'_>) -> DeadLetter,
        names: &mut Names,
        findings: &mut Findings,
    ) {
        if let (Input::Command(command), None) = (&decision.input, &decision.outcome) {
            self.take_in(decision, command, letter(decision), findings);
        }
        for spanned in &decision.reservations {
            self.state(
                decision,
                &spanned.value,
                content_of(spanned.bytes),
                findings,
            );
        }
        for resolved in &decision.resolved {
            self.resolve(decision, resolved, findings);
            names.resolved(resolved, decision.number);
        }
        if let Input::Answer(answer) = &decision.input {
            check_heard(decision, answer, findings);
        }
        if let Some(Outcome::Granted) = &decision.outcome {
            check_granted_at_once(decision, findings);
        }
        self.check_due(decision, findings);
    }

    /// A command whose outcome comes later.
    fn take_in(
        &mut self,
        decision: &Decision<'_>,
        command: &Command<'_>,
        letter: DeadLetter,
        findings: &mut Findings,
    ) {
        let Some(reservation) = command.body.reservation() else {
            let what = format!(
                "`{}` of `{}` has no outcome, and only a reservation's command may wait for one",
                command.id, command.source
            );
            let about = command.body.sku().map(About::sku).unwrap_or_default();
            findings.add(Invariant::Outcome, about, what);
            return;
        };
        let pending = Pending {
            name: name_of(command.source, command.id, command.body.key()),
            reservation: reservation.into(),
            asks: Asks::of(&command.body),
            letter,
        };
        self.pending.insert(decision.number, pending);
    }

    /// How the command that the decision of that number took in is to be kept should it be parked.
    pub(crate) fn letter(&self, of: u64) -> Option<DeadLetter> {
        self.pending.get(&of).map(|pending| pending.letter)
    }

    fn state(
        &mut self,
        decision: &Decision<'_>,
        record: &ReservationRecord<'_>,
        bytes_hash: u64,
        findings: &mut Findings,
    ) {
        let about = About::reservation(record.id);
        let key = reservation_key(record.id);
        let old = self.all.get(&key);
        // One that did not change stands there again as it was.
        let is_same = old.is_some_and(|old| old.bytes_hash == bytes_hash);
        if record.number != decision.number && !is_same {
            let what = format!(
                "the reservation says that decision {} changed it last, and it changed in {}",
                record.number, decision.number
            );
            findings.add(Invariant::Numbering, about, what);
        }
        self.check_decided_by(decision, record, old, findings);
        for line in &record.lines {
            let parts = [line.reserved, line.committed, line.shipped, line.given_back];
            let about = about.with_sku(line.sku);
            check_line(line.asked, parts, line.line, about, findings);
        }
        check_status(record, about, findings);
        let open = |line: &&ReservationLine<'_>| line.reserved != 0 || line.committed != 0;
        let open = record.lines.iter().filter(open);
        let reservation = Reservation {
            id: record.id.into(),
            has_step: record.step.is_some(),
            expires_at: record.expires_at,
            open: open
                .map(|line| (Box::from(line.sku), line_of(line)))
                .collect(),
            decided_by: record.decided_by.as_slice().into(),
            bytes_hash,
        };
        if let Some(at) = old.and_then(|old| old.expires_at) {
            self.due.remove(&(at, key));
        }
        if let (Some(at), false) = (reservation.expires_at, reservation.has_step) {
            self.due.insert((at, key));
        }
        self.all.insert(key, reservation);
    }

    /// What it says of the owners of its lines is what they said of themselves, the newest of each.
    fn check_decided_by(
        &self,
        decision: &Decision<'_>,
        record: &ReservationRecord<'_>,
        old: Option<&Reservation>,
        findings: &mut Findings,
    ) {
        let own = findings.here.partition;
        let heard = match &decision.input {
            Input::Answer(answer) if answer.reservation == record.id && answer.from != own => {
                Some((answer.from, answer.decision))
            }
            _ => None,
        };
        let known = old.map_or(&[][..], |old| &old.decided_by);
        let known = known.iter().map(|owner| (owner.partition, owner.number));
        let newest = |partition: u16| {
            let of = known.clone().chain(heard).filter(|(p, _)| *p == partition);
            of.map(|(_, number)| number).max()
        };
        let about = About::reservation(record.id);
        let mut before = None;
        for owner in &record.decided_by {
            let expected = newest(owner.partition);
            if expected != Some(owner.number) || before >= Some(owner.partition) {
                let what = format!(
                    "it says that decision {} of partition {} decided on it, and heard of \
                     {expected:?} (after partition {before:?})",
                    owner.number, owner.partition
                );
                findings.add(Invariant::Numbering, about, what);
            }
            before = Some(owner.partition);
        }
        // None may be missing of a line that an owner has stated.
        let asked = record.lines.iter().filter(|line| line.asked != 0);
        let asked = asked.map(|line| partition_of(line.sku.as_bytes(), self.partitions));
        let is_there = |partition: u16| {
            let mut stated = record.decided_by.iter();
            partition == own || stated.any(|owner| owner.partition == partition)
        };
        let mut needed = asked.chain(heard.map(|(partition, _)| partition));
        if let Some(missing) = needed.find(|partition| !is_there(*partition)) {
            let what =
                format!("it does not say which decision of partition {missing} decided on it");
            findings.add(Invariant::Numbering, about, what);
        }
    }

    /// An earlier command got its outcome: once, and as the reservation then stands.
    fn resolve(
        &mut self,
        decision: &Decision<'_>,
        resolved: &Resolved<'_>,
        findings: &mut Findings,
    ) {
        let about = About::reservation(resolved.reservation);
        let named = format!(
            "`{}` of `{}` (decision {})",
            resolved.id, resolved.source, resolved.of
        );
        let Some(pending) = self.pending.remove(&resolved.of) else {
            let what = format!("{named} gets an outcome, and none was waited for");
            findings.add(Invariant::Outcome, about, what);
            return;
        };
        if pending.name != resolved.name
            || pending.name != name_of(resolved.source, resolved.id, resolved.reservation)
            || &*pending.reservation != resolved.reservation
        {
            let what = format!(
                "{named} gets an outcome, and decision {} took in another command, of reservation {}",
                resolved.of, pending.reservation
            );
            findings.add(Invariant::Outcome, about, what);
        }
        match resolved.outcome {
            Outcome::Rejected(_) if pending.asks == Asks::Fact => {
                let what = format!("{named} is a fact and was rejected");
                findings.add(Invariant::FactsAreTaken, about, what);
            }
            Outcome::Rejected(_) => findings.report.figures.rejected += 1,
            Outcome::Duplicate { .. } => findings.report.figures.duplicates += 1,
            Outcome::Invalid(_) => findings.report.figures.invalid += 1,
            Outcome::Parked { .. } => findings.report.figures.parked += 1,
            Outcome::Applied(_) | Outcome::Granted => {}
        }
        let mut records = decision.reservations.iter().map(|spanned| &spanned.value);
        let Some(record) = records.find(|record| record.id == resolved.reservation) else {
            let what = format!("{named} gets an outcome without its reservation");
            findings.add(Invariant::Outcome, about, what);
            return;
        };
        if resolved.outcome == Outcome::Granted {
            check_granted(&named, pending.asks, record, about, findings);
        }
    }

    /// Everything due by log time has expired, or as much as one decision may. What that left has time
    /// until the next millisecond.
    fn check_due(&mut self, decision: &Decision<'_>, findings: &mut Findings) {
        let before = self.log_time.replace(decision.at);
        let bytes: usize = decision.reservations.iter().map(|r| r.bytes.len()).sum();
        if before == Some(decision.at) || bytes >= DUE_BYTES {
            return;
        }
        while let Some(&(at, key)) = self.due.first() {
            if at > decision.at || decision.reservations.len() >= DUE_MAX {
                return;
            }
            self.due.pop_first();
            let id = self.all.get(&key).map(|reservation| &*reservation.id);
            let what = format!(
                "it is reserved until {at}, log time is {}, and it has not expired",
                decision.at
            );
            let about = About::reservation(id.unwrap_or_default());
            findings.add(Invariant::HoldsHaveReason, about, what);
        }
    }

    /// At the end of the log: who waits, waits for a step.
    pub(crate) fn check_pending(&self, findings: &mut Findings) -> u64 {
        let mut waiting: Vec<_> = self.pending.iter().collect();
        waiting.sort_unstable_by_key(|(number, _)| **number);
        for (number, pending) in &waiting {
            let reservation = self.all.get(&reservation_key(&pending.reservation));
            if !reservation.is_some_and(|reservation| reservation.has_step) {
                let what = format!(
                    "the command of decision {number} has no outcome, and its reservation has no step \
                     under way"
                );
                let about = About::reservation(&pending.reservation);
                findings.add(Invariant::Outcome, about, what);
            }
        }
        waiting.len() as u64
    }
}

fn line_of(line: &ReservationLine<'_>) -> Line {
    Line {
        line: line.line,
        location: line.location.unwrap_or_default().into(),
        reserved: line.reserved,
        committed: line.committed,
        shipped: line.shipped,
        given_back: line.given_back,
    }
}

/// The status says what the lines say.
fn check_status(record: &ReservationRecord<'_>, about: About<'_>, findings: &mut Findings) {
    let sum = |part: fn(&ReservationLine<'_>) -> i64| {
        let parts = record.lines.iter().map(|line| i128::from(part(line)));
        parts.sum::<i128>()
    };
    let reserved = sum(|line| line.reserved);
    let committed = sum(|line| line.committed);
    if (record.status == Status::Pending) != record.step.is_some() {
        let what = format!(
            "its status is {:?} and a step is {}under way",
            record.status,
            if record.step.is_some() { "" } else { "not " }
        );
        findings.add(Invariant::Outcome, about, what);
        return;
    }
    if record.step.is_none() && !record.queue.is_empty() {
        let what = "commands wait for a step, and none is under way".to_owned();
        findings.add(Invariant::Outcome, about, what);
    }
    let fits = match record.status {
        Status::Pending => true,
        Status::Granted => reserved > 0,
        Status::Confirmed => reserved == 0 && committed > 0,
        Status::Rejected | Status::Released | Status::Expired | Status::Fulfilled => {
            reserved == 0 && committed == 0
        }
    };
    if !fits {
        let invariant = if record.status == Status::Rejected {
            Invariant::NeverHalfGranted
        } else {
            Invariant::UnitsEndOnce
        };
        let what = format!(
            "it is {:?} with {reserved} reserved and {committed} committed",
            record.status
        );
        findings.add(invariant, about, what);
    }
    if record.step.is_none() && (reserved > 0) != record.expires_at.is_some() {
        let what = format!(
            "{reserved} are reserved and it expires at {:?}",
            record.expires_at
        );
        findings.add(Invariant::HoldsHaveReason, about, what);
    }
}

/// A reservation that asks no more than it holds is granted without a step.
fn check_granted_at_once(decision: &Decision<'_>, findings: &mut Findings) {
    let Input::Command(command) = &decision.input else {
        return;
    };
    let named = format!("`{}` of `{}`", command.id, command.source);
    let id = command.body.reservation().unwrap_or_default();
    let mut records = decision.reservations.iter().map(|spanned| &spanned.value);
    match records.find(|record| record.id == id) {
        Some(record) => {
            let asks = Asks::of(&command.body);
            check_granted(&named, asks, record, About::reservation(id), findings);
        }
        None => {
            let what = format!("{named} was granted without its reservation");
            findings.add(Invariant::Outcome, About::reservation(id), what);
        }
    }
}

/// What was granted is held, whole unless less was allowed.
fn check_granted(
    named: &str,
    asks: Asks,
    record: &ReservationRecord<'_>,
    about: About<'_>,
    findings: &mut Findings,
) {
    let mut any = false;
    for line in &record.lines {
        let kept =
            i128::from(line.reserved) + i128::from(line.committed) + i128::from(line.shipped);
        any |= kept > 0;
        let requested = line.requested.units(line.decimals);
        if asks == Asks::Whole && requested.is_none_or(|requested| kept < requested) {
            let what = format!(
                "{named} was granted; of line {} {requested:?} were requested and {kept} are kept",
                line.line
            );
            findings.add(Invariant::NeverHalfGranted, about.with_sku(line.sku), what);
        }
    }
    if !any {
        let what = format!("{named} was granted and nothing is held");
        findings.add(Invariant::NeverHalfGranted, about, what);
    }
}

/// The owner takes its lines over as the SKU's owner states them.
fn check_heard(decision: &Decision<'_>, answer: &Answer<'_>, findings: &mut Findings) {
    let mut records = decision.reservations.iter().map(|spanned| &spanned.value);
    let Some(record) = records.find(|record| record.id == answer.reservation) else {
        return;
    };
    let about = About::reservation(record.id).with_sku(answer.sku);
    let open = |reserved: i64, committed: i64| reserved != 0 || committed != 0;
    let told = answer.lines.iter();
    let told = told.filter(|line: &&LineState<'_>| open(line.reserved, line.committed));
    let mut told: Vec<Line> = told.map(Line::of).collect();
    let own = record.lines.iter().filter(|line| line.sku == answer.sku);
    let own = own.filter(|line| open(line.reserved, line.committed));
    let mut own: Vec<Line> = own.map(line_of).collect();
    told.sort_unstable();
    own.sort_unstable();
    if told != own {
        let what = format!("it was told of {told:?} and states {own:?}");
        findings.add(Invariant::HoldsHaveReason, about, what);
    }
}
