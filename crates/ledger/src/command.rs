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
    pub input: Input<'a>,
    /// When it was appended to the log.
    pub at: Time,
    /// Fingerprint of (source, id) for a command, 0 otherwise.
    pub name: u128,
    /// Fingerprint of the command's content as sent, without source and id; 0 otherwise.
    pub content: u64,
}

/// One record's worth of input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Input<'a> {
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
    #[serde(borrow)]
    pub source: Source<'a>,
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
    pub body: Body<'a>,
}

/// What a command says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body<'a> {
    // Facts, keyed by SKU.
    #[serde(borrow)]
    Receive(Fact<'a>),
    Ship {
        fact: Fact<'a>,
        reservation: Option<ReservationId<'a>>,
        line: Option<u32>,
    },
    Return(Fact<'a>),
    /// Signed, not 0.
    Adjust(Fact<'a>),
    Move {
        sku: Sku<'a>,
        quantity: Amount,
        from: StockPlace<'a>,
        to: StockPlace<'a>,
    },
    Count {
        sku: Sku<'a>,
        location: Location<'a>,
        quantity: Amount,
        figure: Figure,
    },
    // Requests keyed by SKU.
    Set {
        sku: Sku<'a>,
        location: Location<'a>,
        quantity: Amount,
        expected: Option<Amount>,
    },
    Item {
        sku: Sku<'a>,
        decimals: Option<u8>,
        unit: Option<Cow<'a, str>>,
        name: Option<Cow<'a, str>>,
    },
    // Keyed by reservation: a fact, then requests.
    Commit {
        reservation: ReservationId<'a>,
        lines: Vec<RequestLine<'a>>,
        channel: Option<Cow<'a, str>>,
    },
    Reserve {
        reservation: ReservationId<'a>,
        lines: Vec<RequestLine<'a>>,
        /// Seconds; default 900, at most 30 days.
        ttl_s: Option<u32>,
        channel: Option<Cow<'a, str>>,
        partial: bool,
    },
    Confirm {
        reservation: ReservationId<'a>,
        /// None: all that is open.
        lines: Option<Vec<LinePart>>,
    },
    Release {
        reservation: ReservationId<'a>,
        lines: Option<Vec<LinePart>>,
    },
    Extend {
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
    #[serde(borrow)]
    pub sku: Sku<'a>,
    pub location: Location<'a>,
    pub quantity: Amount,
    pub state: StateName,
}

/// A state that a fact may name.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum StateName {
    #[default]
    Available,
    Damaged,
    QualityControl,
}

/// A figure that a count may name.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Figure {
    #[default]
    OnHand,
    Damaged,
    QualityControl,
}

/// One end of a `move`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StockPlace<'a> {
    #[serde(borrow)]
    pub location: Location<'a>,
    pub state: StateName,
}

/// A line of `reserve` or `commit`. Line numbers are unique within the command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestLine<'a> {
    /// Default at the edge: its place, from 1.
    pub line: u32,
    #[serde(borrow)]
    pub sku: Sku<'a>,
    pub quantity: Amount,
    /// Always given in a `commit`.
    pub location: Option<Location<'a>>,
}

/// A part of a line, for `confirm` and `release`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinePart {
    pub line: u32,
    /// None: all of it that is open.
    pub quantity: Option<Amount>,
}

/// What the owner of a reservation asks of the owner of a SKU: one per command and SKU, all its lines
/// on that SKU together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask<'a> {
    /// The asking partition, and its running number towards this one: 1, 2, 3 ...
    pub from: u16,
    pub number: u64,
    #[serde(borrow)]
    pub reservation: ReservationId<'a>,
    pub sku: Sku<'a>,
    /// The step it belongs to; the answer names it again.
    pub step: u64,
    pub kind: AskKind<'a>,
}

/// The kinds of ask.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AskKind<'a> {
    /// Bring the lines to these quantities in all (what is confirmed or shipped included). Never lowers a
    /// line, unless `whole`.
    Hold {
        #[serde(borrow)]
        lines: Vec<AskLine<'a>>,
        /// A `commit`: a fact, never refused for lack of stock, straight to committed.
        committed: bool,
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
    Confirm { lines: Vec<AskPart<'a>> },
    /// Back to available, reserved before committed; each part clipped to what is open. None:
    /// everything open.
    GiveBack { lines: Option<Vec<AskPart<'a>>> },
    /// The step that held here was not granted: the lines as they stood before it, whole. What has
    /// shipped meanwhile stays shipped. Ends an ask that still waits.
    Restore { lines: Vec<RestoreLine<'a>> },
}

/// A line within [`AskKind::Hold`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskLine<'a> {
    pub line: u32,
    pub quantity: Amount,
    #[serde(borrow)]
    pub location: Option<Location<'a>>,
    /// What of this line was given back before and stays so: `quantity` comes on top of it, except
    /// in a `commit`, where it goes off it.
    pub given_back: Quantity,
}

/// A part of a line within [`AskKind::Confirm`] and [`AskKind::GiveBack`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskPart<'a> {
    pub line: u32,
    #[serde(borrow)]
    pub location: Location<'a>,
    pub quantity: Quantity,
}

/// A line within [`AskKind::Restore`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreLine<'a> {
    pub line: u32,
    #[serde(borrow)]
    pub location: Location<'a>,
    pub asked: Quantity,
    pub given_back: Quantity,
    /// What was committed or shipped: so much of what is open again is committed, the rest reserved.
    pub confirmed: Quantity,
}

/// What the owner of a SKU states to the owner of a reservation, asked or not: its lines on that SKU,
/// whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer<'a> {
    pub from: u16,
    pub number: u64,
    /// The number of the decision that states this, in the partition that it comes from.
    pub decision: u64,
    #[serde(borrow)]
    pub reservation: ReservationId<'a>,
    pub sku: Sku<'a>,
    /// The item's decimals, in whose units the lines are stated.
    pub decimals: u8,
    /// The step of the ask that it answers; `None` when a fact changed the lines.
    pub step: Option<u64>,
    pub lines: Vec<crate::decision::LineState<'a>>,
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
