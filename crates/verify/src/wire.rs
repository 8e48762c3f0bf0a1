//! The records of the log as `docs/format.md` describes them, for reading.
//!
//! Written from that document and from nothing else: these types and those of the ledger have no line
//! in common, so that a mistake in one shows against the other. Names are borrowed from the record.

#![allow(
    dead_code,
    reason = "the types are the format, whole: a field that no check reads is still in the bytes"
)]

use serde::Deserialize;
#[cfg(test)]
use serde::Serialize;

/// An input: an entry of a pack in `stock.commands`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Input<'a> {
    #[serde(borrow)]
    Command(Command<'a>),
    Ask(Ask<'a>),
    Answer(Answer<'a>),
    Tick,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Command<'a> {
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
    pub(crate) seq: Option<u64>,
    pub(crate) occurred_at: Option<i64>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) note: Option<&'a str>,
    pub(crate) reference: Option<&'a str>,
    pub(crate) data: Option<&'a str>,
    #[serde(borrow)]
    pub(crate) body: Body<'a>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Body<'a> {
    #[serde(borrow)]
    Receive(Fact<'a>),
    Ship {
        fact: Fact<'a>,
        reservation: Option<&'a str>,
        line: Option<u32>,
    },
    Return(Fact<'a>),
    Adjust(Fact<'a>),
    Move {
        sku: &'a str,
        quantity: Amount,
        from: StockPlace<'a>,
        to: StockPlace<'a>,
    },
    Count {
        sku: &'a str,
        location: &'a str,
        quantity: Amount,
        figure: Figure,
    },
    Set {
        sku: &'a str,
        location: &'a str,
        quantity: Amount,
        expected: Option<Amount>,
    },
    Item {
        sku: &'a str,
        decimals: Option<u8>,
        unit: Option<&'a str>,
        name: Option<&'a str>,
    },
    Commit {
        reservation: &'a str,
        lines: Vec<RequestLine<'a>>,
        channel: Option<&'a str>,
    },
    Reserve {
        reservation: &'a str,
        lines: Vec<RequestLine<'a>>,
        ttl_s: Option<u32>,
        channel: Option<&'a str>,
        partial: bool,
    },
    Confirm {
        reservation: &'a str,
        lines: Option<Vec<LinePart>>,
    },
    Release {
        reservation: &'a str,
        lines: Option<Vec<LinePart>>,
    },
    Extend {
        reservation: &'a str,
        ttl_s: Option<u32>,
    },
}

impl<'a> Body<'a> {
    pub(crate) fn sku(&self) -> Option<&'a str> {
        match self {
            Self::Receive(fact)
            | Self::Return(fact)
            | Self::Adjust(fact)
            | Self::Ship { fact, .. } => Some(fact.sku),
            Self::Move { sku, .. }
            | Self::Count { sku, .. }
            | Self::Set { sku, .. }
            | Self::Item { sku, .. } => Some(sku),
            _ => None,
        }
    }

    pub(crate) fn reservation(&self) -> Option<&'a str> {
        match self {
            Self::Commit { reservation, .. }
            | Self::Reserve { reservation, .. }
            | Self::Confirm { reservation, .. }
            | Self::Release { reservation, .. }
            | Self::Extend { reservation, .. } => Some(reservation),
            _ => None,
        }
    }

    /// The key that decides the partition.
    pub(crate) fn key(&self) -> &'a str {
        self.sku().or(self.reservation()).unwrap_or_default()
    }

    /// The location that it names, where it names exactly one.
    pub(crate) fn location(&self) -> Option<&'a str> {
        match self {
            Self::Receive(fact)
            | Self::Return(fact)
            | Self::Adjust(fact)
            | Self::Ship { fact, .. } => Some(fact.location),
            Self::Count { location, .. } | Self::Set { location, .. } => Some(location),
            _ => None,
        }
    }

    /// Facts have happened: no rule may refuse them.
    pub(crate) fn is_fact(&self) -> bool {
        matches!(
            self,
            Self::Receive(_)
                | Self::Ship { .. }
                | Self::Return(_)
                | Self::Adjust(_)
                | Self::Move { .. }
                | Self::Count { .. }
                | Self::Commit { .. }
        )
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Fact<'a> {
    pub(crate) sku: &'a str,
    pub(crate) location: &'a str,
    pub(crate) quantity: Amount,
    pub(crate) state: StateName,
}

/// `mantissa` / 10^`decimals`, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Amount {
    pub(crate) mantissa: i64,
    pub(crate) decimals: u8,
}

impl Amount {
    /// In smallest units of an item with that many decimals, if it has a whole number of them.
    pub(crate) fn units(self, item_decimals: u8) -> Option<i128> {
        let power = |n: u8| 10_i128.checked_pow(u32::from(n));
        let mantissa = i128::from(self.mantissa);
        match self.decimals.checked_sub(item_decimals) {
            Some(finer) => {
                let divisor = power(finer)?;
                (mantissa % divisor == 0).then_some(mantissa / divisor)
            }
            None => mantissa.checked_mul(power(item_decimals - self.decimals)?),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum StateName {
    Available,
    Damaged,
    QualityControl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Figure {
    OnHand,
    Damaged,
    QualityControl,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct StockPlace<'a> {
    pub(crate) location: &'a str,
    pub(crate) state: StateName,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct RequestLine<'a> {
    pub(crate) line: u32,
    pub(crate) sku: &'a str,
    pub(crate) quantity: Amount,
    pub(crate) location: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct LinePart {
    pub(crate) line: u32,
    pub(crate) quantity: Option<Amount>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Ask<'a> {
    pub(crate) from: u16,
    pub(crate) number: u64,
    pub(crate) reservation: &'a str,
    pub(crate) sku: &'a str,
    pub(crate) step: u64,
    #[serde(borrow)]
    pub(crate) kind: AskKind<'a>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum AskKind<'a> {
    Hold {
        #[serde(borrow)]
        lines: Vec<AskLine<'a>>,
        committed: bool,
        partial: bool,
        sole: bool,
        waits: bool,
        whole: bool,
    },
    Keep,
    Confirm {
        lines: Vec<AskPart<'a>>,
    },
    GiveBack {
        lines: Option<Vec<AskPart<'a>>>,
    },
    Restore {
        lines: Vec<RestoreLine<'a>>,
    },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct AskLine<'a> {
    pub(crate) line: u32,
    pub(crate) quantity: Amount,
    pub(crate) location: Option<&'a str>,
    pub(crate) given_back: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct AskPart<'a> {
    pub(crate) line: u32,
    pub(crate) location: &'a str,
    pub(crate) quantity: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct RestoreLine<'a> {
    pub(crate) line: u32,
    pub(crate) location: &'a str,
    pub(crate) asked: i64,
    pub(crate) given_back: i64,
    pub(crate) confirmed: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Answer<'a> {
    pub(crate) from: u16,
    pub(crate) number: u64,
    pub(crate) decision: u64,
    pub(crate) reservation: &'a str,
    pub(crate) sku: &'a str,
    pub(crate) decimals: u8,
    pub(crate) step: Option<u64>,
    #[serde(borrow)]
    pub(crate) lines: Vec<LineState<'a>>,
    pub(crate) verdict: Verdict<'a>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Verdict<'a> {
    Done,
    #[serde(borrow)]
    Refused(Rejection<'a>),
    Contended(Rejection<'a>),
    Created,
}

/// A line of a reservation as the owner of its SKU states it, in smallest units.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct LineState<'a> {
    pub(crate) line: u32,
    pub(crate) location: &'a str,
    pub(crate) asked: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) shipped: i64,
    pub(crate) given_back: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Movement {
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) quantity: i64,
    pub(crate) kind: MovementKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum MovementKind {
    Fact,
    Correction(Figure),
    Refold(Figure, i64),
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Place {
    Supplier,
    Customer,
    Loss,
    Available(u8),
    Reserved(u8),
    Committed(u8),
    Damaged(u8),
    QualityControl(u8),
}

impl Place {
    pub(crate) fn of(state: StateName, location: u8) -> Self {
        match state {
            StateName::Available => Self::Available(location),
            StateName::Damaged => Self::Damaged(location),
            StateName::QualityControl => Self::QualityControl(location),
        }
    }

    pub(crate) fn location(self) -> Option<u8> {
        match self {
            Self::Supplier | Self::Customer | Self::Loss => None,
            Self::Available(l)
            | Self::Reserved(l)
            | Self::Committed(l)
            | Self::Damaged(l)
            | Self::QualityControl(l) => Some(l),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct LevelAfter {
    pub(crate) location: u8,
    pub(crate) sequence: u64,
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Outcome<'a> {
    Applied(Notes),
    Granted,
    #[serde(borrow)]
    Rejected(Rejection<'a>),
    Duplicate {
        first: u64,
    },
    Invalid(Invalid<'a>),
    Parked {
        panic: &'a str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Notes {
    pub(crate) created: bool,
    pub(crate) clock_ahead_s: Option<u64>,
    pub(crate) hold: Option<i64>,
    pub(crate) absorbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct CountNote {
    pub(crate) location: u8,
    pub(crate) figure: Figure,
    pub(crate) counted: i64,
    pub(crate) expected: i64,
    pub(crate) end: CountEnd,
    pub(crate) opening: bool,
    pub(crate) merged_to: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum CountEnd {
    Applied,
    Superseded,
    NotApplied,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Rejection<'a> {
    pub(crate) reason: Reason,
    #[serde(borrow)]
    pub(crate) lines: Vec<LineNumbers<'a>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct LineNumbers<'a> {
    pub(crate) line: u32,
    pub(crate) sku: &'a str,
    pub(crate) location: Option<&'a str>,
    pub(crate) decimals: u8,
    pub(crate) requested: i64,
    pub(crate) available: i64,
    pub(crate) reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Reason {
    None,
    InsufficientStock,
    UnknownSku,
    UnknownLocation,
    UnknownReservation,
    UnknownLine,
    NoAnswer,
    Contended,
    Expired,
    Released,
    Fulfilled,
    OtherSource,
    MoreThanOpen,
    LessThanDone,
    NotAsExpected,
    NotASourceOfTruth,
    Overflow,
    Decimals,
    DecimalsFixed,
    IdReused,
    Parked,
    NothingOpen,
    QuantityRange,
    TimeRange,
    SamePlace,
    TooManyWaiting,
    RepeatedLine,
    OutOfRange,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Invalid<'a> {
    pub(crate) field: &'a str,
    pub(crate) reason: Reason,
    pub(crate) first: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Resolved<'a> {
    pub(crate) of: u64,
    pub(crate) name: u128,
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
    pub(crate) reservation: &'a str,
    #[serde(borrow)]
    pub(crate) outcome: Outcome<'a>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum SendWhat<'a> {
    #[serde(borrow)]
    Ask(Ask<'a>),
    Answer(Answer<'a>),
}

/// A reservation's lines on one SKU, whole, at the SKU's owner.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct HoldRecord<'a> {
    pub(crate) reservation: &'a str,
    #[serde(borrow)]
    pub(crate) lines: Vec<LineState<'a>>,
    pub(crate) undecided: Vec<i64>,
    pub(crate) shipped: Vec<Directed<'a>>,
    pub(crate) waiting: Option<WaitingAsk<'a>>,
    pub(crate) number: u64,
    pub(crate) at: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Directed<'a> {
    #[serde(borrow)]
    pub(crate) to: ShipTarget<'a>,
    pub(crate) quantity: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum ShipTarget<'a> {
    Line(u32),
    Location(&'a str),
    Any,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct WaitingAsk<'a> {
    pub(crate) since: u64,
    pub(crate) step: u64,
    #[serde(borrow)]
    pub(crate) lines: Vec<AskLine<'a>>,
    pub(crate) partial: bool,
    pub(crate) sole: bool,
    pub(crate) whole: bool,
}

/// A reservation, whole, at its owner.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct ReservationRecord<'a> {
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
    pub(crate) channel: Option<&'a str>,
    pub(crate) status: Status,
    #[serde(borrow)]
    pub(crate) lines: Vec<ReservationLine<'a>>,
    pub(crate) created_at: i64,
    pub(crate) granted_at: Option<i64>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) commit: Option<CommitKey<'a>>,
    pub(crate) released_at: Option<i64>,
    pub(crate) conflict: Option<CommitKey<'a>>,
    pub(crate) step: Option<Step<'a>>,
    pub(crate) queue: Vec<Waiting<'a>>,
    pub(crate) number: u64,
    pub(crate) decided_by: Vec<DecidedBy>,
}

/// A decision of another partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct DecidedBy {
    pub(crate) partition: u16,
    pub(crate) number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Status {
    Pending,
    Granted,
    Confirmed,
    Rejected,
    Released,
    Expired,
    Fulfilled,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct ReservationLine<'a> {
    pub(crate) line: u32,
    pub(crate) sku: &'a str,
    pub(crate) requested: Amount,
    pub(crate) location: Option<&'a str>,
    pub(crate) decimals: u8,
    pub(crate) asked: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) shipped: i64,
    pub(crate) given_back: i64,
    pub(crate) given_back_by: Option<GivenBackBy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum GivenBackBy {
    Release,
    Expiry,
    Restated,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct CommitKey<'a> {
    pub(crate) occurred_at: i64,
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Taken<'a> {
    pub(crate) number: u64,
    pub(crate) at: i64,
    pub(crate) name: u128,
    pub(crate) content: u64,
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
    pub(crate) occurred_at: Option<i64>,
    #[serde(borrow)]
    pub(crate) wish: Wish<'a>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Wish<'a> {
    Commit {
        #[serde(borrow)]
        lines: Vec<RequestLine<'a>>,
        channel: Option<&'a str>,
        offset: i64,
        seq: Option<u64>,
        reason: Option<&'a str>,
        note: Option<&'a str>,
        reference: Option<&'a str>,
        data: Option<&'a str>,
    },
    Reserve {
        lines: Vec<RequestLine<'a>>,
        ttl_s: Option<u32>,
        channel: Option<&'a str>,
        partial: bool,
    },
    Confirm {
        lines: Option<Vec<LinePart>>,
    },
    Release {
        lines: Option<Vec<LinePart>>,
    },
    Extend {
        ttl_s: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Waiting<'a> {
    #[serde(borrow)]
    Command(Taken<'a>),
    Retry {
        number: u64,
        name: u128,
        source: &'a str,
        id: &'a str,
    },
    Expiry,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Step<'a> {
    pub(crate) number: u64,
    #[serde(borrow)]
    pub(crate) by: Option<Taken<'a>>,
    pub(crate) phase: Phase,
    pub(crate) deadline: Option<i64>,
    pub(crate) asks: Vec<Asked<'a>>,
    pub(crate) status_before: Status,
    pub(crate) lines_before: Vec<ReservationLine<'a>>,
    pub(crate) numbers: Vec<LineNumbers<'a>>,
    pub(crate) refusal: Option<Rejection<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Phase {
    Hold,
    HoldInOrder,
    Restore,
    Lower,
    Confirm,
    Release,
    Expire,
    Tidy,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Asked<'a> {
    pub(crate) sku: &'a str,
    pub(crate) heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) enum Heard {
    NotAsked,
    Nothing,
    Done,
    Refused,
    Contended,
    Created,
}
