//! What became of a command: the outcome's object, and how HTTP says it.

use onhand_ledger::reservation::{DecidedBy, ReservationRecord};
use onhand_ledger::{
    Body, CountEnd, CountNote, Decision, Figure, Input, Invalid, LineNumbers, Notes, Outcome,
    Reason, Rejection, Resolved,
};

use super::change::changes;
use super::refusal::{Refusal, RefusalKind};
use super::write::{Object, list, uint};
use super::{problem, reservation};
use crate::position;

/// Where a decision stands, for the tokens of what is rendered from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) epoch: u64,
    pub(crate) partition: u16,
}

/// An outcome within the decision that brought it: of the decision's own command, or of an earlier
/// one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'d, 'a> {
    pub(crate) decision: &'d Decision<'a>,
    pub(crate) resolved: Option<&'d Resolved<'a>>,
    pub(crate) origin: Origin,
}

/// The first outcome of a command, for those that repeat it.
#[derive(Clone, Debug)]
pub(crate) struct First {
    /// Its object.
    pub(crate) json: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) is_problem: bool,
    pub(crate) kind: problem::Kind,
    /// The problem's sentence.
    pub(crate) detail: String,
}

impl First {
    pub(crate) fn of(said: &Said<'_, '_>, detail: Detail) -> Self {
        let outcome = said.outcome();
        let mut json = Vec::with_capacity(256);
        write(&mut json, said, None, None, detail);
        let (kind, sentence) = problem::of_judged(outcome);
        Self {
            json,
            status: http_status(outcome),
            is_problem: is_problem(outcome),
            kind,
            detail: sentence,
        }
    }
}

/// How much of an outcome is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detail {
    /// With the levels that it left and the reservation as it stands.
    Whole,
    /// With the reservation as it stands: the levels are shown beside it.
    WithoutLevels,
    /// A line among many: what was asked and how it ended.
    Lean,
}

impl<'d, 'a> Said<'d, 'a> {
    /// The outcome of the decision's own command. `None` where that comes later, or where the
    /// decision is about an internal record.
    pub(crate) fn own(decision: &'d Decision<'a>, origin: Origin) -> Option<Self> {
        decision.outcome.as_ref().map(|_| Self {
            decision,
            resolved: None,
            origin,
        })
    }

    /// The outcome that the decision brings for the command taken in by decision `of`.
    pub(crate) fn late(decision: &'d Decision<'a>, of: u64, origin: Origin) -> Option<Self> {
        let resolved = decision
            .resolved
            .iter()
            .find(|resolved| resolved.of == of)?;
        Some(Self {
            decision,
            resolved: Some(resolved),
            origin,
        })
    }

    /// The outcome of that name that the decision carries, its own or an earlier command's.
    pub(crate) fn named(decision: &'d Decision<'a>, name: u128, origin: Origin) -> Option<Self> {
        Self::of(decision, |other| other == name, origin)
    }

    /// The outcome that the decision carries of a command that its sender calls so
    /// (`onhand_flows::pack::sender_of`), whatever its key.
    pub(crate) fn sent(decision: &'d Decision<'a>, sender: u64, origin: Origin) -> Option<Self> {
        Self::of(decision, |name| name >> 64 == u128::from(sender), origin)
    }

    fn of(decision: &'d Decision<'a>, is: impl Fn(u128) -> bool, origin: Origin) -> Option<Self> {
        if is(decision.name) && decision.outcome.is_some() {
            return Some(Self {
                decision,
                resolved: None,
                origin,
            });
        }
        let resolved = decision
            .resolved
            .iter()
            .find(|resolved| is(resolved.name))?;
        Some(Self {
            decision,
            resolved: Some(resolved),
            origin,
        })
    }

    pub(crate) fn outcome(&self) -> &'d Outcome<'a> {
        match self.resolved {
            Some(resolved) => &resolved.outcome,
            None => self
                .decision
                .outcome
                .as_ref()
                .expect("every constructor looked for it"),
        }
    }

    /// The decision that holds the first outcome, and the name it is found under there; `None` unless
    /// this is a duplicate whose first outcome is remembered.
    pub(crate) fn first(&self) -> Option<(u64, u128)> {
        let name = self
            .resolved
            .map_or(self.decision.name, |resolved| resolved.name);
        match self.outcome() {
            Outcome::Duplicate { first } if *first > 0 => Some((*first, name)),
            _ => None,
        }
    }

    pub(crate) fn id(&self) -> &str {
        match (self.resolved, &self.decision.input) {
            (Some(resolved), _) => resolved.id.as_str(),
            (None, Input::Command(command)) => command.id.as_str(),
            _ => "",
        }
    }

    pub(crate) fn source(&self) -> &str {
        match (self.resolved, &self.decision.input) {
            (Some(resolved), _) => resolved.source.as_str(),
            (None, Input::Command(command)) => command.source.as_str(),
            _ => "onhand",
        }
    }

    /// The reservation that it is about, as it stands after it.
    pub(crate) fn reservation(&self) -> Option<&'d ReservationRecord<'a>> {
        let id = match (self.resolved, &self.decision.input) {
            (Some(resolved), _) => resolved.reservation.as_str(),
            (None, Input::Command(command)) => reservation_of(&command.body)?,
            _ => return None,
        };
        self.decision
            .reservations
            .iter()
            .find(|record| record.id.as_str() == id)
    }

    /// The decisions of other partitions that its position speaks of: of a reservation's, those of the
    /// owners of its lines.
    pub(crate) fn decided_by(&self) -> &'d [DecidedBy] {
        self.reservation()
            .map_or(&[][..], |record| &record.decided_by)
    }
}

/// The reservation whose owner decides the command.
fn reservation_of<'c>(body: &'c Body<'_>) -> Option<&'c str> {
    match body {
        Body::Commit { reservation, .. }
        | Body::Reserve { reservation, .. }
        | Body::Confirm { reservation, .. }
        | Body::Release { reservation, .. }
        | Body::Extend { reservation, .. } => Some(reservation.as_str()),
        _ => None,
    }
}

/// The SKU that the command is about.
pub(crate) fn sku_of<'c>(input: &'c Input<'_>) -> Option<&'c str> {
    match input {
        Input::Command(command) => match &command.body {
            Body::Receive(fact) | Body::Return(fact) | Body::Adjust(fact) => Some(&fact.sku),
            Body::Ship { fact, .. } => Some(&fact.sku),
            Body::Move { sku, .. }
            | Body::Count { sku, .. }
            | Body::Set { sku, .. }
            | Body::Item { sku, .. } => Some(sku),
            _ => None,
        }
        .map(|sku| sku.as_str()),
        Input::Ask(ask) => Some(ask.sku.as_str()),
        Input::Answer(_) | Input::Tick => None,
    }
}

pub(crate) fn is_duplicate(outcome: &Outcome<'_>) -> bool {
    matches!(outcome, Outcome::Duplicate { .. })
}

/// Whether somebody should look. A duplicate is judged by its first outcome.
pub(crate) fn is_problem(outcome: &Outcome<'_>) -> bool {
    matches!(
        outcome,
        Outcome::Rejected(_) | Outcome::Invalid(_) | Outcome::Parked { .. }
    )
}

/// The word for an outcome.
pub(crate) fn status(outcome: &Outcome<'_>) -> &'static str {
    match outcome {
        Outcome::Applied(_) => "applied",
        Outcome::Granted => "granted",
        Outcome::Rejected(_) => "rejected",
        Outcome::Duplicate { .. } => "duplicate",
        Outcome::Invalid(_) => "invalid",
        Outcome::Parked { .. } => "parked",
    }
}

/// The status of an answer that consists of this outcome. A duplicate is judged by its first; one
/// known only by its `seq` counts as good.
pub(crate) fn http_status(outcome: &Outcome<'_>) -> u16 {
    match outcome {
        Outcome::Applied(_) | Outcome::Granted | Outcome::Duplicate { .. } => 200,
        Outcome::Parked { .. } => 202,
        Outcome::Rejected(_) => 409,
        Outcome::Invalid(_) => 422,
    }
}

/// Writes the object of an outcome. `first` is what a duplicate repeats; `line` its place in a stream.
pub(crate) fn write(
    out: &mut Vec<u8>,
    said: &Said<'_, '_>,
    first: Option<&First>,
    line: Option<u64>,
    detail: Detail,
) {
    let mut object = Object::open(out);
    if let Some(line) = line {
        object.uint("line", line);
    }
    members(&mut object, said, first, detail, "status");
    object.close();
}

/// The members of an outcome, into an object that is open. `status_key` names the outcome's word: in a
/// problem, `status` is HTTP's.
pub(crate) fn members(
    object: &mut Object<'_>,
    said: &Said<'_, '_>,
    first: Option<&First>,
    detail: Detail,
    status_key: &str,
) {
    let outcome = said.outcome();
    object
        .text("id", said.id())
        .text("source", said.source())
        .text(status_key, status(outcome));
    match outcome {
        Outcome::Applied(notes) => applied(object, said, notes),
        Outcome::Granted => {}
        Outcome::Rejected(rejection) => rejected(object, rejection),
        Outcome::Duplicate { .. } => {
            if let Some(first) = first {
                object.raw("first", &first.json);
            }
        }
        Outcome::Invalid(invalid) => invalid_members(object, invalid, said.origin),
        Outcome::Parked { panic } => parked(object, said, panic),
    }
    let token = object.key("position");
    token.push(b'"');
    reservation::write_position(token, said.origin, said.decision.number, said.decided_by());
    token.push(b'"');
    if detail == Detail::Whole {
        levels(object, said);
    }
    if detail != Detail::Lean
        && let Some(record) = said.reservation()
    {
        reservation::write(object.key("reservation"), record, said.origin);
    }
}

fn applied(object: &mut Object<'_>, said: &Said<'_, '_>, notes: &Notes) {
    if notes.created {
        object.flag("created", true);
    }
    if let Some(seconds) = notes.clock_ahead_s {
        object.uint("clock_ahead_s", seconds);
    }
    match notes.hold {
        Some(met) if met.is_zero() => {
            object.text("hold", "none");
        }
        Some(met) => {
            object.amount("hold", met.0, said.decision.decimals);
        }
        None => {}
    }
    if notes.absorbed {
        object.flag("absorbed", true);
    }
    if let Some(count) = &said.decision.count {
        count_members(object, count, said.decision.decimals);
    }
}

pub(crate) fn count_members(object: &mut Object<'_>, count: &CountNote, decimals: u8) {
    let end = match count.end {
        CountEnd::Applied => "applied",
        CountEnd::Superseded => "superseded",
        CountEnd::NotApplied => "not_applied",
    };
    object
        .text("count", end)
        .text("state", figure(count.figure));
    object.amount("counted", count.counted.0, decimals).amount(
        "expected",
        count.expected.0,
        decimals,
    );
    if !count.opening {
        let drift = count.counted.0.saturating_sub(count.expected.0);
        object.amount("drift", drift, decimals);
    }
    if let Some(time) = count.merged_to {
        object.time("merged_to", time);
    }
}

/// The word for what a count counts.
pub(crate) fn figure(figure: Figure) -> &'static str {
    match figure {
        Figure::OnHand => "on_hand",
        Figure::Damaged => "damaged",
        Figure::QualityControl => "quality_control",
    }
}

fn rejected(object: &mut Object<'_>, rejection: &Rejection<'_>) {
    object.text("reason", reason(rejection.reason));
    if !rejection.lines.is_empty() {
        let names = number_names(rejection.reason);
        list(object.key("lines"), &rejection.lines, |out, line| {
            numbers(out, line, names);
        });
    }
}

/// What the two numbers of a refusal's lines are: what was asked for, and what stood against it.
fn number_names(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::NotAsExpected => ("expected", "on_hand"),
        Reason::DecimalsFixed => ("requested", "declared"),
        Reason::LessThanDone => ("requested", "done"),
        Reason::MoreThanOpen
        | Reason::NothingOpen
        | Reason::UnknownLine
        | Reason::Expired
        | Reason::Released
        | Reason::Fulfilled => ("requested", "open"),
        _ => ("requested", "available"),
    }
}

fn numbers(out: &mut Vec<u8>, line: &LineNumbers<'_>, (asked, stood): (&str, &str)) {
    let mut object = Object::open(out);
    if line.line > 0 {
        uint(object.key("line"), u64::from(line.line));
    }
    // There are no numbers of a line that is not there.
    if line.reason != Reason::UnknownLine {
        // These count decimals: they are no amounts of the item.
        let decimals = if line.reason == Reason::DecimalsFixed {
            0
        } else {
            line.decimals
        };
        object
            .text("sku", line.sku.as_str())
            .some_text(
                "location",
                line.location.as_ref().map(|location| location.as_str()),
            )
            .amount(asked, line.requested.0, decimals)
            .amount(stood, line.available.0, decimals);
    }
    if line.reason != Reason::None {
        object.text("reason", reason(line.reason));
    }
    object.close();
}

fn invalid_members(object: &mut Object<'_>, invalid: &Invalid<'_>, origin: Origin) {
    object
        .text("field", &invalid.field)
        .text("reason", reason(invalid.reason))
        .text("detail", what_to_do(invalid.reason));
    if invalid.reason == Reason::IdReused && invalid.first > 0 {
        let token = object.key("first_position");
        token.push(b'"');
        position::write_of(token, origin.epoch, origin.partition, invalid.first);
        token.push(b'"');
    }
}

fn parked(object: &mut Object<'_>, said: &Said<'_, '_>, panic: &str) {
    // The dead letter's id: its partition, and the number of the decision that parked it.
    let letter = format!("{}-{}", said.origin.partition, said.decision.number);
    object.text("dead_letter", &letter).text("detail", panic);
}

/// The levels that the decision left, where the outcome is that of its own command.
fn levels(object: &mut Object<'_>, said: &Said<'_, '_>) {
    let decision = said.decision;
    if said.resolved.is_none() && sku_of(&decision.input).is_some() && !decision.levels.is_empty() {
        list(
            object.key("levels"),
            changes(decision, said.origin),
            |out, change| change.level_view().write(out, said.origin.epoch),
        );
    }
}

/// The outcome line of a command that did not reach the log.
pub(crate) fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, line: Option<u64>) {
    let mut object = Object::open(out);
    if let Some(line) = line {
        object.uint("line", line);
    }
    object
        .some_text("id", refusal.id.as_deref())
        .some_text("source", refusal.source.as_deref())
        .text("status", "invalid")
        .text("field", &refusal.field)
        .text("reason", refusal_reason(refusal.kind))
        .text("detail", &problem::sentence(refusal));
    object.close();
}

/// The word for why a command did not reach the log.
pub(crate) fn refusal_reason(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Unreadable => "unreadable",
        RefusalKind::Invalid => "invalid",
        RefusalKind::NotAvailable => "not_available",
        RefusalKind::TooLong => "too_long",
    }
}

/// The word for a reason.
pub(crate) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::None => "none",
        Reason::InsufficientStock => "insufficient_stock",
        Reason::UnknownSku => "unknown_sku",
        Reason::UnknownLocation => "unknown_location",
        Reason::UnknownReservation => "unknown_reservation",
        Reason::UnknownLine => "unknown_line",
        Reason::NoAnswer => "no_answer",
        Reason::Contended => "contended",
        Reason::Expired => "expired",
        Reason::Released => "released",
        Reason::Fulfilled => "fulfilled",
        Reason::OtherSource => "other_source",
        Reason::MoreThanOpen => "more_than_open",
        Reason::LessThanDone => "less_than_done",
        Reason::NotAsExpected => "not_as_expected",
        Reason::NotASourceOfTruth => "not_a_source_of_truth",
        Reason::Overflow => "overflow",
        Reason::Decimals => "decimals",
        Reason::DecimalsFixed => "decimals_fixed",
        Reason::IdReused => "id_reused",
        Reason::Parked => "parked",
        Reason::NothingOpen => "nothing_open",
        Reason::TooManyWaiting => "too_many_waiting",
        Reason::RepeatedLine => "repeated_line",
        Reason::OutOfRange => "out_of_range",
        Reason::QuantityRange => "quantity_range",
        Reason::TimeRange => "time_range",
        Reason::SamePlace => "same_place",
    }
}

/// What the sender can do about it.
pub(crate) fn what_to_do(reason: Reason) -> &'static str {
    match reason {
        Reason::None => "this line could have been granted; look at the others",
        Reason::InsufficientStock => "ask for at most what is available, or elsewhere",
        Reason::UnknownSku => "no fact has named this SKU yet; check its spelling",
        Reason::UnknownLocation => {
            "this SKU has no level at that location; check its spelling, or report stock there first"
        }
        Reason::UnknownReservation => "there is no reservation of this name; check its spelling",
        Reason::UnknownLine => "the reservation has no such line; look at its lines",
        Reason::NoAnswer => "the owner of a SKU did not answer in time; ask again under a new id",
        Reason::Contended => "others were asking for the same stock; ask again under a new id",
        Reason::Expired => "its time has passed; reserve anew",
        Reason::Released => "it was released; use a new reservation",
        Reason::Fulfilled => "all of it has shipped; use a new reservation",
        Reason::OtherSource => "it belongs to another source; use a name of your own",
        Reason::MoreThanOpen => "name at most what is open",
        Reason::LessThanDone => "ask for at least what is confirmed or shipped",
        Reason::NotAsExpected => "read the level again and decide anew",
        Reason::NotASourceOfTruth => {
            "only a source of truth may set; send an adjust or a count, or start the node with \
             --truth and this source"
        }
        Reason::Overflow => "the figure would leave the range of 64 bits; send a smaller quantity",
        Reason::Decimals => "the item has fewer decimals; send a coarser quantity",
        Reason::DecimalsFixed => "decimals are declared before the first entry; use a new SKU",
        Reason::IdReused => {
            "this source used the id for another command; send a new id, or the same content again"
        }
        Reason::Parked => "it could not be processed; look into dead-letters",
        Reason::NothingOpen => "nothing of it is open; look at its lines",
        Reason::TooManyWaiting => {
            "too many commands wait for this reservation; ask again under a new id"
        }
        Reason::RepeatedLine => "number each line once, and name a SKU twice only with locations",
        Reason::QuantityRange => "send a quantity of the sign that this type takes",
        Reason::TimeRange => "send a time of the years 0001 to 9999",
        Reason::SamePlace => "from and to are the same; send another place",
        Reason::OutOfRange => "send at least one line, and quantities above 0",
    }
}
