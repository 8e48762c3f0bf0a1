//! What comes in: commands from outside, and the internal records that owners send each other.
//!
//! The serde forms of these types are what the log holds (in postcard's encoding, see
//! `docs/format.md`): a field or variant is only ever added at the end, with a new pack version.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::values::{Amount, Id, Location, Quantity, ReservationId, Sku, Source, Time};

/// An input with what intake knows of it. `decide` sees nothing else.
#[derive(Clone, Debug)]
pub struct Stamped<'a> {
    /// What is to be decided.
    pub input: Input<'a>,
    /// When it was appended to the log.
    pub at: Time,
    /// Fingerprint of source, id and key for a command, 0 otherwise.
    pub name: u128,
    /// Fingerprint of the command's content as sent; 0 otherwise.
    pub content: u64,
    /// Where its record stands in the log that it came from. Nothing is decided by it: it is kept with
    /// a fact whose outcome comes later, to be named should that fact be parked.
    pub offset: i64,
}

/// One record's worth of input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Input<'a> {
    /// A fact or a request from outside.
    #[serde(borrow)]
    Command(Command<'a>),
    /// From the owner of a reservation to the owner of a SKU.
    Ask(Ask<'a>),
    /// From the owner of a SKU to the owner of a reservation.
    Answer(Answer<'a>),
    /// Time has passed and nothing else came.
    Tick,
}

impl<'a> Input<'a> {
    /// The SKU whose owner decides it, if it is about one: its levels and holds may change.
    pub fn sku(&self) -> Option<&Sku<'a>> {
        match self {
            Self::Command(command) => command.body.sku(),
            Self::Ask(ask) => Some(&ask.sku),
            Self::Answer(_) | Self::Tick => None,
        }
    }
}

/// A fact or a request from outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command<'a> {
    /// The system that reports or asks. Each source has ids of its own.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// The sender's own name of this command. The same source and id at the same key again is a
    /// repeat, not a second command.
    pub id: Id<'a>,
    /// Rising per source and SKU, from a source that sends in order.
    pub seq: Option<u64>,
    /// When it happened; absent: the time of intake.
    pub occurred_at: Option<Time>,
    /// `[a-z0-9_]{1,32}`; absent means `other`.
    pub reason: Option<Cow<'a, str>>,
    /// Up to 1,000 bytes.
    pub note: Option<Cow<'a, str>>,
    /// A URI-like string, up to 512 bytes.
    pub reference: Option<Cow<'a, str>>,
    /// One flat JSON object, up to 2 KiB, kept and shown, never read.
    pub data: Option<Cow<'a, str>>,
    /// What happened or is wanted, with the fields of its kind.
    pub body: Body<'a>,
}

impl<'a> Command<'a> {
    /// A command that says nothing beside who sends it, under which id, and what.
    pub fn new(source: impl Into<Source<'a>>, id: impl Into<Id<'a>>, body: Body<'a>) -> Self {
        Self {
            source: source.into(),
            id: id.into(),
            seq: None,
            occurred_at: None,
            reason: None,
            note: None,
            reference: None,
            data: None,
            body,
        }
    }
}

/// What a command says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body<'a> {
    // Facts, keyed by SKU.
    /// Stock came in from a supplier. The quantity is above 0.
    #[serde(borrow)]
    Receive(Fact<'a>),
    /// Stock left for a customer. Never refused for lack of stock.
    Ship {
        /// What left, and from where; the quantity is above 0.
        fact: Fact<'a>,
        /// Whose holds on this SKU it ends, by its quantity, committed before reserved; `None`: no
        /// hold is touched.
        reservation: Option<ReservationId<'a>>,
        /// Which line it is for; `None`: those held at the fact's location first. What is over
        /// fills the others in order of line. Read only with a reservation.
        line: Option<u32>,
    },
    /// Stock came back from a customer. The quantity is above 0.
    Return(Fact<'a>),
    /// There is more or less than was recorded. The quantity is signed, not 0.
    Adjust(Fact<'a>),
    /// Stock went from one place to another, or from one state to another, in one movement.
    Move {
        /// The SKU, the same at both ends.
        sku: Sku<'a>,
        /// How much moved; above 0.
        quantity: Amount,
        /// Where it left.
        from: StockPlace<'a>,
        /// Where it went; differs from `from` in location, state or both.
        to: StockPlace<'a>,
    },
    /// Somebody saw how much there is, at the command's `occurred_at`. Compared with the ledger as
    /// of then; what moved later stays on top. With reason `opening` it loads opening stock and is
    /// never drift.
    Count {
        /// The SKU counted.
        sku: Sku<'a>,
        /// Where it was counted.
        location: Location<'a>,
        /// How much was seen; 0 or more.
        quantity: Amount,
        /// Which figure was counted: only that one is corrected.
        figure: Figure,
    },
    // Requests keyed by SKU.
    /// On hand as a source of truth states it; folds like a count of on hand. Rejected from any
    /// source that is not one of [`Settings::truth`](crate::Settings::truth).
    Set {
        /// The SKU stated.
        sku: Sku<'a>,
        /// Where it is stated.
        location: Location<'a>,
        /// On hand at the command's `occurred_at`; 0 or more.
        quantity: Amount,
        /// On hand as the sender believes it to be when this is decided: if it is not, the command
        /// is rejected. `None`: not compared.
        expected: Option<Amount>,
    },
    /// Declares what a SKU is. Moves nothing; what is `None` stays as it was declared.
    Item {
        /// The SKU declared; it exists from here on.
        sku: Sku<'a>,
        /// Decimals of its quantities, 0 to 6. Can change only before the SKU's first entry.
        decimals: Option<u8>,
        /// The unit it is measured in; kept and shown, never read.
        unit: Option<Cow<'a, str>>,
        /// What people call it; kept and shown, never read.
        name: Option<Cow<'a, str>>,
    },
    // Keyed by reservation: a fact, then requests.
    /// An order that a channel has already accepted: a fact, straight to committed, never refused
    /// for lack of stock.
    Commit {
        /// The reservation that the order is kept as; begun if there is none.
        reservation: ReservationId<'a>,
        /// The order, whole, 1 to 100 lines, each with its location. What it does not name is held no
        /// more.
        lines: Vec<RequestLine<'a>>,
        /// The sales outlet that took the order. Kept only where the reservation names none yet.
        channel: Option<Cow<'a, str>>,
    },
    /// Asks to hold stock for a time; on an open reservation of the same source it states the lines
    /// anew.
    Reserve {
        /// The reservation that it begins or states anew.
        reservation: ReservationId<'a>,
        /// All lines wanted, 1 to 100. Of an open reservation, a line not named is wanted no more.
        lines: Vec<RequestLine<'a>>,
        /// Seconds; default 900, at most 30 days.
        ttl_s: Option<u32>,
        /// The sales outlet that asks. `None`: a reservation that has one keeps it.
        channel: Option<Cow<'a, str>>,
        /// Take what there is of each line; otherwise all lines are granted whole or none is.
        partial: bool,
    },
    /// Brings what is reserved to committed, where it no longer expires.
    Confirm {
        /// The reservation confirmed.
        reservation: ReservationId<'a>,
        /// Parts to confirm; `None`: all that is reserved.
        lines: Option<Vec<LinePart>>,
    },
    /// Gives back what is held, reserved before committed.
    Release {
        /// The reservation released.
        reservation: ReservationId<'a>,
        /// Parts to give back; `None`: all that is open.
        lines: Option<Vec<LinePart>>,
    },
    /// Puts off when what is reserved expires; never brings it forward.
    Extend {
        /// The reservation extended.
        reservation: ReservationId<'a>,
        /// Seconds from the log time of the decision; default 900, at most 30 days.
        ttl_s: Option<u32>,
    },
}

impl<'a> Body<'a> {
    /// The reservation that keys it; `None` for what a SKU keys.
    pub fn reservation(&self) -> Option<&ReservationId<'a>> {
        match self {
            Self::Commit { reservation, .. }
            | Self::Reserve { reservation, .. }
            | Self::Confirm { reservation, .. }
            | Self::Release { reservation, .. }
            | Self::Extend { reservation, .. } => Some(reservation),
            Self::Receive(_)
            | Self::Ship { .. }
            | Self::Return(_)
            | Self::Adjust(_)
            | Self::Move { .. }
            | Self::Count { .. }
            | Self::Set { .. }
            | Self::Item { .. } => None,
        }
    }

    /// The SKU that keys it; `None` for what a reservation keys.
    pub fn sku(&self) -> Option<&Sku<'a>> {
        match self {
            Self::Receive(fact) | Self::Return(fact) | Self::Adjust(fact) => Some(&fact.sku),
            Self::Ship { fact, .. } => Some(&fact.sku),
            Self::Move { sku, .. }
            | Self::Count { sku, .. }
            | Self::Set { sku, .. }
            | Self::Item { sku, .. } => Some(sku),
            Self::Commit { .. }
            | Self::Reserve { .. }
            | Self::Confirm { .. }
            | Self::Release { .. }
            | Self::Extend { .. } => None,
        }
    }
}

/// The fields that receive, ship, return and adjust share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact<'a> {
    /// The SKU that it is about.
    #[serde(borrow)]
    pub sku: Sku<'a>,
    /// Where it came in, left or was adjusted.
    pub location: Location<'a>,
    /// How much, above 0; of an `adjust` signed and not 0.
    pub quantity: Amount,
    /// The state that it entered or left. On hand changes with it, whichever it is.
    pub state: StateName,
}

/// A state that a fact may name.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum StateName {
    /// Free to promise. The default.
    #[default]
    Available,
    /// Present, not sellable.
    Damaged,
    /// Present, withheld until inspected.
    QualityControl,
}

/// A figure that a count may name.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Figure {
    /// Everything present, in all states. Corrected against loss. The default.
    #[default]
    OnHand,
    /// What is in state damaged. Corrected against available: on hand stays.
    Damaged,
    /// What is in quality control. Corrected against available: on hand stays.
    QualityControl,
}

/// One end of a `move`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StockPlace<'a> {
    /// The location at this end.
    #[serde(borrow)]
    pub location: Location<'a>,
    /// What state the quantity has at this end.
    pub state: StateName,
}

/// A line of `reserve` or `commit`. Line numbers are unique within the command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestLine<'a> {
    /// Default at the edge: its place, from 1.
    pub line: u32,
    /// The SKU wanted. Twice in one `reserve` only with different locations named.
    #[serde(borrow)]
    pub sku: Sku<'a>,
    /// How much the line is to have in all, above 0: what is already confirmed or shipped counts
    /// towards it.
    pub quantity: Amount,
    /// Always given in a `commit`.
    pub location: Option<Location<'a>>,
}

/// A part of a line, for `confirm` and `release`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinePart {
    /// The line's number in the reservation; each at most once in a command.
    pub line: u32,
    /// None: all of it that is open.
    pub quantity: Option<Amount>,
}

/// What the owner of a reservation asks of the owner of a SKU: one per command and SKU, all its lines
/// on that SKU together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask<'a> {
    /// The asking partition.
    pub from: u16,
    /// Its running number from that partition to this one, asks and answers together: 1, 2, 3 ...
    pub number: u64,
    /// The reservation that asks.
    #[serde(borrow)]
    pub reservation: ReservationId<'a>,
    /// The SKU asked of.
    pub sku: Sku<'a>,
    /// The step it belongs to; the answer names it again.
    pub step: u64,
    /// What is asked.
    pub kind: AskKind<'a>,
}

/// The kinds of ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AskKind<'a> {
    /// Bring the lines to these quantities in all (what is confirmed or shipped included). Never lowers a
    /// line, unless `whole`.
    Hold {
        /// The lines wanted on this SKU, at most 100. Empty only in a `commit`, for a SKU that the
        /// order no longer names.
        #[serde(borrow)]
        lines: Vec<AskLine<'a>>,
        /// A `commit`: a fact, never refused for lack of stock, straight to committed.
        committed: bool,
        /// Hold as much of each line as stock allows; refused only if no line can be raised.
        partial: bool,
        /// No other SKU is asked in this step: what is held is decided at once.
        sole: bool,
        /// The second ask of a contended step: wait behind the undecided holds.
        waits: bool,
        /// These are all the lines there are on this SKU: what else is held falls to nothing. So with
        /// a `commit`, and with a reservation that begins anew.
        whole: bool,
    },
    /// The step that held here was granted: the hold is decided. Not answered.
    Keep,
    /// Reserved to committed; each part clipped to what is reserved.
    Confirm {
        /// The parts to confirm; one of a line that is not held here is passed over.
        lines: Vec<AskPart<'a>>,
    },
    /// Back to available, reserved before committed; each part clipped to what is open.
    GiveBack {
        /// The parts to give back, or `None` for everything open; one of a line that is not held here
        /// is passed over.
        lines: Option<Vec<AskPart<'a>>>,
    },
    /// The step that held here was not granted: the lines as they stood before it, whole. What has
    /// shipped meanwhile stays shipped. Ends an ask that still waits.
    Restore {
        /// All lines on this SKU before the step; what is held beside them falls to nothing.
        lines: Vec<RestoreLine<'a>>,
    },
}

/// A line within [`AskKind::Hold`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskLine<'a> {
    /// The line's number in the reservation.
    pub line: u32,
    /// What the line is to have in all, as sent, above 0; what is confirmed or shipped counts
    /// towards it.
    pub quantity: Amount,
    /// Where to hold it. `None`: where the line is held already, else at the one location where
    /// most is left.
    #[serde(borrow)]
    pub location: Option<Location<'a>>,
    /// What of this line was given back before and stays so: `quantity` comes on top of it, except
    /// in a `commit`, where it goes off it.
    pub given_back: Quantity,
}

/// A part of a line within [`AskKind::Confirm`] and [`AskKind::GiveBack`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskPart<'a> {
    /// The line's number in the reservation.
    pub line: u32,
    /// Where the line is held; with `line` it says which one is meant.
    #[serde(borrow)]
    pub location: Location<'a>,
    /// How much of it, above 0, in smallest units.
    pub quantity: Quantity,
}

/// A line within [`AskKind::Restore`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreLine<'a> {
    /// The line's number in the reservation.
    pub line: u32,
    /// Where the line was held.
    #[serde(borrow)]
    pub location: Location<'a>,
    /// What was asked of it in all, in smallest units.
    pub asked: Quantity,
    /// What of `asked` had been given back.
    pub given_back: Quantity,
    /// What was committed or shipped: so much of what is open again is committed, the rest reserved.
    pub confirmed: Quantity,
}

/// What the owner of a SKU states to the owner of a reservation, asked or not: its lines on that SKU,
/// whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer<'a> {
    /// The answering partition.
    pub from: u16,
    /// Its running number from that partition to this one, asks and answers together: 1, 2, 3 ...
    pub number: u64,
    /// The number of the decision that states this, in the partition that it comes from.
    pub decision: u64,
    /// The reservation that it is for.
    #[serde(borrow)]
    pub reservation: ReservationId<'a>,
    /// The SKU whose lines are stated.
    pub sku: Sku<'a>,
    /// The item's decimals, in whose units the lines are stated.
    pub decimals: u8,
    /// The step of the ask that it answers; `None` when a fact changed the lines.
    pub step: Option<u64>,
    /// Every line of the reservation on this SKU as it stands now, also after a refusal.
    pub lines: Vec<crate::decision::LineState<'a>>,
    /// How the ask went; [`Verdict::Done`] where a fact changed the lines.
    pub verdict: Verdict<'a>,
}

/// How an ask went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict<'a> {
    /// Done as asked, or as far as `partial` allows.
    Done,
    /// Refused, with the numbers of every line asked.
    #[serde(borrow)]
    Refused(crate::decision::Rejection<'a>),
    /// Refused only because of others' undecided holds.
    Contended(crate::decision::Rejection<'a>),
    /// A `commit`, done as asked: the SKU, or its level at a location, exists from here on.
    Created,
}
