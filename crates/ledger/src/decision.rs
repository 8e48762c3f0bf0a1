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
    /// Its number within the partition, counted from 1.
    pub number: u64,
    /// The partition's log time after this input: the highest record time so far.
    pub at: Time,
    /// Fingerprint of the command's source, id and key, as stamped: a restored partition recognises a
    /// repeat by it. 0 for an internal input.
    pub name: u128,
    /// Fingerprint of the command's content, as stamped: the same name with another one is invalid. 0
    /// for an internal input.
    pub content: u64,
    /// What was decided, whole.
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

impl<'a> Decision<'a> {
    /// A decision on that input which says nothing yet: no outcome, nothing moved.
    pub fn new(number: u64, at: Time, name: u128, content: u64, input: Input<'a>) -> Self {
        Self {
            number,
            at,
            name,
            content,
            input,
            outcome: None,
            event_time: None,
            decimals: 0,
            locations: Vec::new(),
            movements: Vec::new(),
            levels: Vec::new(),
            count: None,
            holds: Vec::new(),
            reservations: Vec::new(),
            resolved: Vec::new(),
            sends: Vec::new(),
            gap: false,
            alert: false,
        }
    }
}

/// Something that moved: always from somewhere to somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Movement {
    /// The place that loses the quantity.
    pub from: Place,
    /// The place that gains it.
    pub to: Place,
    /// Above 0.
    pub quantity: Quantity,
    /// Why it moved.
    pub kind: MovementKind,
}

/// Why it moved, and with that at which event time it folds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MovementKind {
    /// The fact itself, at [`Decision::event_time`].
    Fact,
    /// A count's correction of that figure, at the time that the count was taken at:
    /// [`CountNote::merged_to`], where times were merged, else the decision's event time.
    Correction(Figure),
    /// An earlier count's correction re-folded because of this decision, at that count's time.
    Refold(Figure, Time),
    /// Between available, reserved and committed. Holds have no event time.
    Hold,
}

/// Where stock is, or the outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Place {
    /// Outside: where receipts come from.
    Supplier,
    /// Outside: where shipments go and returns come from.
    Customer,
    /// Outside: the other end of adjustments, and of corrections of on hand.
    Loss,
    /// Free to promise. With an index into [`Decision::locations`], as all that follow.
    Available(u8),
    /// Kept by open holds that have an expiry or are not decided yet.
    Reserved(u8),
    /// Kept by confirmed holds, not shipped yet.
    Committed(u8),
    /// Present, not sellable.
    Damaged(u8),
    /// Present, withheld until inspected.
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
    /// Everything present, the four figures below and what is available included, in smallest
    /// units. Below 0 where more has left than was recorded to be there.
    pub on_hand: i64,
    /// What open holds with an expiry, or not decided yet, keep of it.
    pub reserved: i64,
    /// What confirmed holds keep of it.
    pub committed: i64,
    /// What of it is damaged. Below 0 where more was taken out of that state than was in it.
    pub damaged: i64,
    /// What of it is in quality control. Below 0 as `damaged`.
    pub quality_control: i64,
}

/// The outcome of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome<'a> {
    /// It has its effect, or had it already. A count is applied however it ended ([`CountNote::end`]).
    Applied(Notes),
    /// A reservation was granted, whole or (with `partial`) in part: its lines stand in the decision's
    /// reservation.
    Granted,
    /// A request that the rules refuse; what was held for it is held no more.
    #[serde(borrow)]
    Rejected(Rejection<'a>),
    /// The same command was decided before, by the decision of that number in this partition, which
    /// carries its outcome. 0: known only by its `seq`.
    Duplicate {
        /// The number of that decision, or 0.
        first: u64,
    },
    /// It cannot be carried out as it was sent. It changed nothing.
    Invalid(Invalid<'a>),
    /// Not processed, to be kept whole in `dead-letters`: it panicked, or it is a fact that names what
    /// is not known, or one too many to wait for its reservation.
    Parked {
        /// Why it was not processed: the panic's text, or what to do before it is sent again.
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
    /// The figure counted; `set` states on hand.
    pub figure: Figure,
    /// What the command says, in smallest units; 0 or more.
    pub counted: Quantity,
    /// What the ledger said at the count's time.
    pub expected: Quantity,
    /// Whether the figure now follows it.
    pub end: CountEnd,
    /// Opening stock: never drift.
    pub opening: bool,
    /// The end of the span that its time was merged into: the time it is taken at. `None` where that
    /// is the decision's event time.
    pub merged_to: Option<Time>,
}

/// How a count ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CountEnd {
    /// It holds: the figure is corrected to it as of its time.
    Applied,
    /// Another count of this figure at the same time holds.
    Superseded,
    /// Older than the horizon and than what is remembered there.
    NotApplied,
}

/// A refusal by the rules, with the numbers that decided it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rejection<'a> {
    /// What decided. That of the first line with a reason, unless the request failed as a whole
    /// ([`Reason::NoAnswer`], [`Reason::Contended`], [`Reason::Expired`] ...).
    pub reason: Reason,
    /// Numbers by line. Empty where no number decided.
    #[serde(borrow)]
    pub lines: Vec<LineNumbers<'a>>,
}

/// The numbers of one line of a refused request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineNumbers<'a> {
    /// 0 where the request has no lines (`set`).
    pub line: u32,
    /// The SKU of the line; empty for [`Reason::UnknownLine`].
    #[serde(borrow)]
    pub sku: Sku<'a>,
    /// Where it was asked or is held; `None` where no location was named or chosen.
    pub location: Option<Location<'a>>,
    /// Decimals of both quantities: the item's, or those sent where the item cannot express the
    /// amount. 0 of `item`, which counts decimals.
    pub decimals: u8,
    /// What was asked (`set`: the quantity expected, else the one stated; `item`: the decimals).
    pub requested: Quantity,
    /// What could have been granted (`set`: what is on hand; `item`: the decimals it has; confirm,
    /// release: what is open; [`Reason::LessThanDone`]: what is confirmed or shipped).
    pub available: Quantity,
    /// Why this line could not be granted; [`Reason::None`]: it could.
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
    /// Less is available than was asked for.
    InsufficientStock,
    /// Nothing has named this SKU yet.
    UnknownSku,
    /// No SKU of this partition has a level at this location. Where only this SKU has none, nothing
    /// of it is available there: [`Reason::InsufficientStock`].
    UnknownLocation,
    /// There is no reservation of this name, or it ended so long ago that it is forgotten.
    UnknownReservation,
    /// The reservation has no line of this number.
    UnknownLine,
    /// An owner did not answer in time.
    NoAnswer,
    /// Others' undecided requests stood in the way, twice.
    Contended,
    /// It has expired, or what was asked of it has.
    Expired,
    /// It was released, or what was asked of it was.
    Released,
    /// It has shipped, or what was asked of it has.
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
    /// What is wrong with the field.
    pub reason: Reason,
    /// For `IdReused`: the number of the decision that took the name first.
    pub first: u64,
}

/// A reservation's line, as the owner of the SKU states it. All in smallest units.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineState<'a> {
    /// The line's number in the reservation. One number may stand at several locations.
    pub line: u32,
    /// Where it is held.
    #[serde(borrow)]
    pub location: Location<'a>,
    /// What was asked of it in all: the sum of the four below.
    pub asked: Quantity,
    /// Held; goes back when the reservation expires, or when its step is refused.
    pub reserved: Quantity,
    /// Held without expiry, not shipped yet.
    pub committed: Quantity,
    /// What has shipped for it, from whichever location; at most `asked` less `given_back`.
    pub shipped: Quantity,
    /// Released, expired, or no longer asked by a later statement.
    pub given_back: Quantity,
}

/// The outcome of an earlier command of this partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolved<'a> {
    /// The number of the decision that took the command in.
    pub of: u64,
    /// The command's fingerprint, as stamped.
    pub name: u128,
    /// The command's source.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// The command's id.
    pub id: Id<'a>,
    /// The reservation it was about; it stands in [`Decision::reservations`].
    pub reservation: ReservationId<'a>,
    /// How it ended. A retry that had waited with it ends [`Outcome::Duplicate`].
    pub outcome: Outcome<'a>,
}

/// A record for the owner of that partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Send<'a> {
    /// The partition that takes it in; may be this one.
    pub to: u16,
    /// What that owner shall do or know.
    #[serde(borrow)]
    pub what: SendWhat<'a>,
}

/// What is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SendWhat<'a> {
    /// From the owner of a reservation to the owner of a SKU.
    #[serde(borrow)]
    Ask(Ask<'a>),
    /// From the owner of a SKU to the owner of a reservation.
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
        /// The SKU counted.
        sku: Sku<'static>,
        /// Where it was counted.
        location: Location<'static>,
        /// Decimals of `counted` and `expected`.
        decimals: u8,
        /// The figure counted.
        figure: Figure,
        /// The count's event time, as sent or stamped.
        counted_at: Time,
        /// What the count says.
        counted: Quantity,
        /// What the ledger says at the count's time, with all that is known now. Saturates at the
        /// ends of the range.
        expected: Quantity,
        /// Who counted.
        source: Source<'static>,
        /// The count's own id at its source.
        id: Id<'static>,
    },
    /// More promised or shipped than there is.
    Oversell {
        /// The SKU of the position.
        sku: Sku<'static>,
        /// The location of the position.
        location: Location<'static>,
        /// Decimals of `available` and `on_hand`.
        decimals: u8,
        /// On hand less what is reserved, committed, damaged and in quality control: below 0.
        available: Quantity,
        /// Everything present, which may itself be below 0.
        on_hand: Quantity,
        /// Log time from which on `available` has been below 0 without a break.
        since: Time,
    },
    /// A channel stated an order again that had been released.
    CommitAfterRelease {
        /// The reservation that had been released.
        reservation: ReservationId<'static>,
        /// Who sent that later commit.
        source: Source<'static>,
        /// That commit's id at its source.
        id: Id<'static>,
        /// That commit's event time, as sent or stamped.
        at: Time,
    },
}
