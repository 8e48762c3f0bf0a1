//! What follows from an input: the outcome and every change, whole enough to be rendered, checked and
//! applied without any other record.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::command::{Answer, Ask, Figure, Input};
use crate::hold::HoldRecord;
use crate::reservation::ReservationRecord;
use crate::values::{Id, Location, Quantity, ReservationId, Sku, Source, Time};

/// One decision. Its partition numbers them 1, 2, 3 ... without a gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision<'a> {
    pub number: u64,
    /// The partition's log time after this input: the highest record time so far.
    pub at: Time,
    /// Fingerprints as stamped: a restored partition recognises a repeat by them.
    pub name: u128,
    pub content: u64,
    #[serde(borrow)]
    pub input: Input<'a>,
    /// The outcome of the input's own command. `None` for an internal input, and for a command whose
    /// outcome comes later as a [`Resolved`] of another decision.
    pub outcome: Option<Outcome<'a>>,
    /// The event time that the fact took effect at: as sent, or as stamped.
    pub event_time: Option<Time>,
    /// The decimals of the SKU that the movements and levels are about.
    pub decimals: u8,
    /// The locations that this decision speaks of; [`Place`] and [`LevelAfter`] index them.
    pub locations: Vec<Location<'a>>,
    /// Everything that moved, in order.
    pub movements: Vec<Movement>,
    /// Levels after it all, one for each location where a figure changed.
    pub levels: Vec<LevelAfter>,
    /// A count recorded (also one that ended `superseded` or `not_applied`).
    pub count: Option<CountNote>,
    /// Reservations' lines on this SKU as they stand after it.
    pub holds: Vec<HoldRecord<'a>>,
    /// Reservations as they stand after it.
    pub reservations: Vec<ReservationRecord<'a>>,
    /// Outcomes of earlier commands that this decision brought.
    pub resolved: Vec<Resolved<'a>>,
    /// Records for other owners (or this partition itself), appended with this decision.
    pub sends: Vec<Send<'a>>,
    /// An internal record is missing before this one: the partition must stop, nothing here may be
    /// applied. Says what to look for: the sender's numbers in the log.
    pub gap: bool,
    /// An internal record could not be processed and nobody could be told: its reservation waits, and
    /// somebody must look.
    pub alert: bool,
}

/// Something that moved: always from somewhere to somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Movement {
    pub from: Place,
    pub to: Place,
    /// Above 0.
    pub quantity: Quantity,
    pub kind: MovementKind,
}

/// Why it moved, and with that at which event time it folds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MovementKind {
    /// The fact itself, at [`Decision::event_time`].
    Fact,
    /// A count's correction of that figure, at the decision's event time.
    Correction(Figure),
    /// An earlier count's correction re-folded because of this decision, at that count's time.
    Refold(Figure, Time),
    /// Between available, reserved and committed. Holds have no event time.
    Hold,
}

/// Where stock is, or the outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Place {
    Supplier,
    Customer,
    Loss,
    /// Index into [`Decision::locations`].
    Available(u8),
    Reserved(u8),
    Committed(u8),
    Damaged(u8),
    QualityControl(u8),
}

impl Place {
    /// The location it is at, by its index in [`Decision::locations`]; `None` for the outside.
    pub fn location(self) -> Option<u8> {
        match self {
            Self::Supplier | Self::Customer | Self::Loss => None,
            Self::Available(location)
            | Self::Reserved(location)
            | Self::Committed(location)
            | Self::Damaged(location)
            | Self::QualityControl(location) => Some(location),
        }
    }
}

/// A level after a decision: what feeds and history show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LevelAfter {
    /// Index into [`Decision::locations`].
    pub location: u8,
    /// Rises by exactly 1 per (SKU, location).
    pub sequence: u64,
    pub on_hand: i64,
    pub reserved: i64,
    pub committed: i64,
    pub damaged: i64,
    pub quality_control: i64,
}

/// The outcome of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome<'a> {
    Applied(Notes),
    /// A reservation was granted, whole or (with `partial`) in part: its lines stand in the decision's
    /// reservation.
    Granted,
    #[serde(borrow)]
    Rejected(Rejection<'a>),
    /// The same command was decided before, by the decision of that number in this partition, which
    /// carries its outcome. 0: known only by its `seq`.
    Duplicate {
        first: u64,
    },
    Invalid(Invalid<'a>),
    /// Processing it panicked; kept whole in `dead-letters`.
    Parked {
        panic: Cow<'a, str>,
    },
}

/// What is worth telling of an applied command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Notes {
    /// The SKU, or its level at that location, exists from here on.
    pub created: bool,
    /// `occurred_at` was this many seconds ahead of intake and was taken as the time of intake.
    pub clock_ahead_s: Option<u64>,
    /// For a `ship` naming a reservation: how much of it met a hold.
    pub hold: Option<Quantity>,
    /// A count had already seen it: the figure did not change.
    pub absorbed: bool,
}

/// A count or set, as it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CountNote {
    /// Index into [`Decision::locations`].
    pub location: u8,
    pub figure: Figure,
    pub counted: Quantity,
    /// What the ledger said at the count's time.
    pub expected: Quantity,
    pub end: CountEnd,
    /// Opening stock: never drift.
    pub opening: bool,
    /// The time it was taken at, where counting times were merged into spans.
    pub merged_to: Option<Time>,
}

/// How a count ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CountEnd {
    Applied,
    /// Another count of this figure at the same time holds.
    Superseded,
    /// Older than the horizon and than what is remembered there.
    NotApplied,
}

/// A refusal by the rules, with the numbers that decided it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rejection<'a> {
    pub reason: Reason,
    #[serde(borrow)]
    pub lines: Vec<LineNumbers<'a>>,
}

/// The numbers of one line of a refused request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineNumbers<'a> {
    /// 0 where the request has no lines (`set`).
    pub line: u32,
    #[serde(borrow)]
    pub sku: Sku<'a>,
    pub location: Option<Location<'a>>,
    pub decimals: u8,
    pub requested: Quantity,
    /// What could have been granted (`set`: what is on hand; confirm, release: what is open).
    pub available: Quantity,
    pub reason: Reason,
}

impl Rejection<'_> {
    /// The same refusal, owned.
    pub fn to_static(&self) -> Rejection<'static> {
        let lines = self.lines.iter().map(LineNumbers::to_static).collect();
        Rejection {
            reason: self.reason,
            lines,
        }
    }
}

impl LineNumbers<'_> {
    /// The same numbers, owned.
    pub fn to_static(&self) -> LineNumbers<'static> {
        LineNumbers {
            line: self.line,
            sku: self.sku.to_static(),
            location: self.location.as_ref().map(Location::to_static),
            decimals: self.decimals,
            requested: self.requested,
            available: self.available,
            reason: self.reason,
        }
    }
}

/// Why a request was rejected, or an input is invalid by the rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Reason {
    /// This line could have been granted; another line was the cause.
    None,
    InsufficientStock,
    UnknownSku,
    UnknownLocation,
    UnknownReservation,
    UnknownLine,
    /// An owner did not answer in time.
    NoAnswer,
    /// Others' undecided requests stood in the way, twice.
    Contended,
    Expired,
    Released,
    Fulfilled,
    /// The reservation belongs to another source.
    OtherSource,
    /// More than is open.
    MoreThanOpen,
    /// Less than what is already confirmed or shipped.
    LessThanDone,
    /// `expected_quantity` is not what is on hand.
    NotAsExpected,
    /// `set` from a source that is no source of truth.
    NotASourceOfTruth,
    /// The figure would leave the range of a 64-bit integer.
    Overflow,
    /// More decimals than the item declares.
    Decimals,
    /// Decimals can only be declared before the first entry.
    DecimalsFixed,
    /// The name was used with other content.
    IdReused,
    /// Processing it panicked.
    Parked,
    /// The reservation has no open or granted lines.
    NothingOpen,
    /// The quantity must be above 0 (`count`, `set`: 0 or more; `adjust`: not 0).
    QuantityRange,
    /// The time is further from 1970 than the ledger's range.
    TimeRange,
    /// A `move` from a place to the same place.
    SamePlace,
    /// More commands wait for this reservation than are kept.
    TooManyWaiting,
    /// A line number twice, or a SKU twice without different locations named.
    RepeatedLine,
    /// Nothing where something is needed, or above the bound.
    OutOfRange,
}

/// What is wrong with an input, found by the rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invalid<'a> {
    /// The field, as a JSON pointer without its leading slash (`quantity`, `lines/2/quantity`).
    #[serde(borrow)]
    pub field: Cow<'a, str>,
    pub reason: Reason,
    /// For `IdReused`: the number of the decision that took the name first.
    pub first: u64,
}

/// A reservation's line, as the owner of the SKU states it. All in smallest units.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineState<'a> {
    pub line: u32,
    #[serde(borrow)]
    pub location: Location<'a>,
    pub asked: Quantity,
    pub reserved: Quantity,
    pub committed: Quantity,
    pub shipped: Quantity,
    pub given_back: Quantity,
}

/// The outcome of an earlier command of this partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolved<'a> {
    /// The number of the decision that took the command in.
    pub of: u64,
    pub name: u128,
    #[serde(borrow)]
    pub source: Source<'a>,
    pub id: Id<'a>,
    /// The reservation it was about; it stands in [`Decision::reservations`].
    pub reservation: ReservationId<'a>,
    pub outcome: Outcome<'a>,
}

/// A record for the owner of that partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Send<'a> {
    pub to: u16,
    #[serde(borrow)]
    pub what: SendWhat<'a>,
}

/// What is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SendWhat<'a> {
    #[serde(borrow)]
    Ask(Ask<'a>),
    Answer(Answer<'a>),
}

impl SendWhat<'_> {
    /// Its running number towards the partition it is sent to.
    pub fn number(&self) -> u64 {
        match self {
            Self::Ask(ask) => ask.number,
            Self::Answer(answer) => answer.number,
        }
    }
}

/// What disagrees now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// A count that differed from the ledger and still does.
    Drift {
        sku: Sku<'static>,
        location: Location<'static>,
        decimals: u8,
        figure: Figure,
        counted_at: Time,
        counted: Quantity,
        expected: Quantity,
        source: Source<'static>,
        id: Id<'static>,
    },
    /// More promised or shipped than there is.
    Oversell {
        sku: Sku<'static>,
        location: Location<'static>,
        decimals: u8,
        available: Quantity,
        on_hand: Quantity,
        since: Time,
    },
    /// A channel stated an order again that had been released.
    CommitAfterRelease {
        reservation: ReservationId<'static>,
        source: Source<'static>,
        id: Id<'static>,
        at: Time,
    },
}
