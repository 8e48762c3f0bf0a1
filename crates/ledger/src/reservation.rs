//! Reservations, as their owner sees them: one step at a time, each unit ended once.
//!
//! A command that changes what is held becomes a **step**: the owner asks the owners of the SKUs (one
//! [`Ask`](crate::Ask) each), hears of all of them, and only then says how it went. What comes
//! meanwhile for the same reservation waits in its queue in log order: commands, retries of commands
//! not yet decided, and its own expiry. Lines are taken over from the SKUs' owners as they state them.
//!
//! ```text
//! reserve   Hold ──► all done ──────────────────────────► granted, Lower what is asked less ──► end
//!            │ │         ▲
//!            │ └► only others' undecided holds in the way ► Restore ► HoldInOrder ──► granted
//!            └──► refused, or no answer in time ──────────► Restore ► rejected
//! commit    Hold ──► all done ──► applied
//! confirm   Confirm ──► applied        release   Release ──► applied        expiry   Expire ──► end
//! extend    at once
//! ```
//!
//! `owner` takes inputs in and keeps the queue; `begin` says what becomes of a command;
//! `rounds` leads a step from round to round; `parts` and `lines` are the arithmetic; `check`
//! refuses what no rule can read; `table` keeps the records.

mod begin;
mod check;
mod lines;
mod owner;
mod parts;
mod rounds;
mod table;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::command::{LinePart, RequestLine};
use crate::decision::{LineNumbers, Rejection};
use crate::values::{Amount, Id, Location, Quantity, ReservationId, Sku, Source, Time};

pub(crate) use owner::{answer, command, expire_due, retry};
pub(crate) use table::{Reservations, forget};

/// A reservation, whole, with all that its owner keeps of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReservationRecord<'a> {
    /// Its name; its owner is the partition of this name.
    #[serde(borrow)]
    pub id: ReservationId<'a>,
    /// Who reserved or committed it first.
    pub source: Source<'a>,
    /// The sales outlet that it is for. A later `reserve` may change it, a `commit` only fills it
    /// in. `None` where none was named.
    pub channel: Option<Cow<'a, str>>,
    /// As a user reads it.
    pub status: Status,
    /// In order of line number; what was asked and how it stands.
    pub lines: Vec<ReservationLine<'a>>,
    /// Log time of the command that began it, or began it anew.
    pub created_at: Time,
    /// Log time of the latest grant.
    pub granted_at: Option<Time>,
    /// When what is reserved goes back; `None` where nothing is reserved.
    pub expires_at: Option<Time>,
    /// Log time at which nothing was open any more.
    pub ended_at: Option<Time>,
    /// The commit that states the order: of all of them the latest.
    pub commit: Option<CommitKey<'a>>,
    /// When something of it was last released.
    pub released_at: Option<Time>,
    /// A commit that came after the order was released.
    pub conflict: Option<CommitKey<'a>>,
    /// The running step. While there is one, the reservation reads `pending`.
    pub step: Option<Step<'a>>,
    /// What waits for the step's end, in log order.
    pub queue: Vec<Waiting<'a>>,
    /// The number of the decision that changed it last.
    pub number: u64,
    /// How far the owners of its lines' SKUs had come when they stated them last, rising by
    /// partition. This partition is not among them: `number` is behind whatever it said of a line.
    /// With `number` it is the reservation's position: there the stock of every line can be read as
    /// this reservation left it.
    pub decided_by: Vec<DecidedBy>,
}

/// A decision of another partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecidedBy {
    /// The owner's partition; never the reservation's own.
    pub partition: u16,
    /// The number of its newest decision that was heard.
    pub number: u64,
}

/// Where a reservation stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Status {
    /// A step is under way: its end is not known yet.
    Pending,
    /// Something is reserved, until `expires_at`.
    Granted,
    /// Nothing is reserved, something is committed.
    Confirmed,
    /// Nothing was granted.
    Rejected,
    /// Nothing is open: what was left was released.
    Released,
    /// Nothing is open: what was left expired.
    Expired,
    /// Nothing is open: what was left has shipped.
    Fulfilled,
}

/// A line of a reservation. Figures are in smallest units, as the owner of the SKU states them;
/// `asked = reserved + committed + shipped + given_back`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReservationLine<'a> {
    /// The line's number. One number may stand at several SKUs and locations after a restatement.
    pub line: u32,
    /// The SKU wanted.
    #[serde(borrow)]
    pub sku: Sku<'a>,
    /// As sent by the command that states the order now; 0 for a line that it does not name.
    pub requested: Amount,
    /// As sent, or as chosen by the grant.
    pub location: Option<Location<'a>>,
    /// Decimals of the figures: the item's; 0 until the owner of the SKU has answered.
    pub decimals: u8,
    /// What was asked in all: the sum of the four below.
    pub asked: Quantity,
    /// Held until `expires_at`, or while the step that holds it is under way.
    pub reserved: Quantity,
    /// Held without expiry, not shipped yet.
    pub committed: Quantity,
    /// What has shipped for it, from whichever location; at most `asked` less `given_back`.
    pub shipped: Quantity,
    /// Released, expired, or no longer asked by a later statement.
    pub given_back: Quantity,
    /// What last gave some of it back.
    pub given_back_by: Option<GivenBackBy>,
}

/// Why a part of a line is held no more, though it has not shipped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum GivenBackBy {
    /// A `release`.
    Release,
    /// Its time passed while it was reserved.
    Expiry,
    /// A later `reserve` asked for less.
    Restated,
}

/// What orders the commits of one reservation: the latest states the order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct CommitKey<'a> {
    /// When it happened: as sent, or the time of intake where that is absent or more than 60 s ahead.
    pub occurred_at: Time,
    /// Who sent it. At equal times the greater name in byte order is the later one.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// Its id at that source; decides where the source is equal too.
    pub id: Id<'a>,
}

/// A command as it was taken in, as far as it matters to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken<'a> {
    /// The number of the decision that took it in.
    pub number: u64,
    /// The log time of that decision.
    pub at: Time,
    /// Its fingerprint, by which its retries are known.
    pub name: u128,
    /// Fingerprint of its content, as stamped.
    pub content: u64,
    /// Who sent it.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// Its id at that source.
    pub id: Id<'a>,
    /// When it happened, as sent; `None`: the time of intake.
    pub occurred_at: Option<Time>,
    /// What it asks for.
    pub wish: Wish<'a>,
}

/// What a command asks of a reservation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wish<'a> {
    /// An order that a channel has already accepted.
    Commit {
        /// The order, whole; each line names its location.
        #[serde(borrow)]
        lines: Vec<RequestLine<'a>>,
        /// The sales outlet that took it, if it named one.
        channel: Option<Cow<'a, str>>,
        /// What else the command says. A fact is never refused: one that is parked at its end is
        /// kept whole.
        told: Box<Told<'a>>,
    },
    /// To hold these lines until they expire.
    Reserve {
        /// All lines wanted.
        lines: Vec<RequestLine<'a>>,
        /// Seconds from the grant until it expires; `None`: 900.
        ttl_s: Option<u32>,
        /// The sales outlet that asks, if it named one.
        channel: Option<Cow<'a, str>>,
        /// Take what there is of each line; otherwise all or nothing.
        partial: bool,
    },
    /// To bring what is reserved to committed.
    Confirm {
        /// Parts to confirm; `None`: all that is reserved.
        lines: Option<Vec<LinePart>>,
    },
    /// To give back what is held.
    Release {
        /// Parts to give back; `None`: all that is open.
        lines: Option<Vec<LinePart>>,
    },
    /// To put off when it expires.
    Extend {
        /// Seconds from the decision on; `None`: 900.
        ttl_s: Option<u32>,
    },
}

/// What a command says that nothing is decided by, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told<'a> {
    /// The offset of its record in the log that it came from.
    pub offset: i64,
    /// As sent, as all that follow.
    pub seq: Option<u64>,
    /// The short word.
    pub reason: Option<Cow<'a, str>>,
    /// Free text.
    pub note: Option<Cow<'a, str>>,
    /// What it refers to.
    pub reference: Option<Cow<'a, str>>,
    /// One flat JSON object.
    pub data: Option<Cow<'a, str>>,
}

/// What waits for the end of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Waiting<'a> {
    /// Carried out when its turn comes.
    #[serde(borrow)]
    Command(Taken<'a>),
    /// The same command as one that runs or waits: it gets that one's outcome.
    Retry {
        /// The number of the decision that took the retry in.
        number: u64,
        /// Its fingerprint, the same as the first's.
        name: u128,
        /// Who sent it.
        source: Source<'a>,
        /// Its id at that source.
        id: Id<'a>,
    },
    /// Its time has passed.
    Expiry,
}

/// What is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step<'a> {
    /// Names this round of asks: the number of the decision that sent them.
    pub number: u64,
    /// The command that it carries out; `None` for an expiry, and for giving back what is not known.
    #[serde(borrow)]
    pub by: Option<Taken<'a>>,
    /// What the round under way is for.
    pub phase: Phase,
    /// When it is rejected for want of answers. `None` where it cannot be.
    pub deadline: Option<Time>,
    /// Who was asked in this round, in byte order, and what each said.
    pub asks: Vec<Asked<'a>>,
    /// The status before it.
    pub status_before: Status,
    /// The lines before it: what [`Phase::Restore`] brings back.
    pub lines_before: Vec<ReservationLine<'a>>,
    /// The numbers heard of lines refused.
    pub numbers: Vec<LineNumbers<'a>>,
    /// How it will end, once all is restored.
    pub refusal: Option<Rejection<'a>>,
}

/// What a round of asks is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Asking all at once to hold.
    Hold,
    /// Asking one after another, in byte order of SKU, after others' undecided holds were in the way.
    HoldInOrder,
    /// Putting back what was held: then comes [`Phase::HoldInOrder`] or, with a refusal, the end.
    Restore,
    /// All is granted: giving back what a restated reservation asks no more.
    Lower,
    /// Bringing parts from reserved to committed.
    Confirm,
    /// Giving parts back, for a `release`.
    Release,
    /// Giving back what is reserved, because its time has passed.
    Expire,
    /// Giving back what is held and should not be.
    Tidy,
}

/// One SKU's owner, asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asked<'a> {
    /// The SKU whose owner it is; each at most once in a round.
    #[serde(borrow)]
    pub sku: Sku<'a>,
    /// What it said.
    pub heard: Heard,
}

/// What was heard of an ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Heard {
    /// In its turn, not asked yet.
    NotAsked,
    /// Asked, and has not answered yet.
    Nothing,
    /// Done as asked, or as far as `partial` allows.
    Done,
    /// Refused, and not only because of others' undecided holds.
    Refused,
    /// Refused only because of others' undecided holds.
    Contended,
    /// Done, and that SKU or its level at a location exists from there on.
    Created,
}

impl Status {
    /// Nothing is open and nothing will be, unless it begins anew.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Released | Self::Expired | Self::Fulfilled
        )
    }
}
