//! The holds on a SKU: what reservations keep of it, as the SKU's owner sees them.
//!
//! The lines of a reservation on one SKU are a **function of the set** of what is known of them: what
//! was asked of each line, what was given back, and what has shipped, directed at a line, at a
//! location or (above a bound) at none (`lines`). So a `commit` and its `ship`s leave the same
//! levels in whatever order they come. `owner` answers asks and takes in ships by that function;
//! `judge` says whether stock allows an ask; `table` keeps the records of one SKU.
//!
//! What a record states is reached in three steps, each written down: *undecided* (a step over several
//! SKUs has asked and not yet heard of all), *decided* (by `Keep`, by being the sole ask, or by being a
//! fact), *ended* (nothing open). Ended records are kept as long as ids, for the totals shipped.

mod judge;
mod lines;
mod owner;
mod table;

use serde::{Deserialize, Serialize};

use crate::command::AskLine;
use crate::decision::LineState;
use crate::values::{Location, Quantity, ReservationId, Time};

pub(crate) use owner::{ask, park, ship};
pub(crate) use table::{HoldIndex, Holds, apply_hold, drain_touched, forget, remove, touch};

/// A reservation's lines on one SKU, whole, with all that the SKU's owner keeps for it. A record
/// without lines, shipped totals and waiting ask says that nothing is kept any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HoldRecord<'a> {
    /// Whose lines they are.
    #[serde(borrow)]
    pub reservation: ReservationId<'a>,
    /// In order of line number, then of location in byte order. For each,
    /// `asked = reserved + committed + shipped + given_back`.
    pub lines: Vec<LineState<'a>>,
    /// How much of each line's `reserved` is not decided yet, in the order of `lines`; empty where
    /// all of it is.
    pub undecided: Vec<Quantity>,
    /// What has shipped for this reservation, by what it was directed at, in that order; also before
    /// a hold exists, and more than the lines can take.
    pub shipped: Vec<Directed<'a>>,
    /// A second ask that waits behind others' undecided holds.
    pub waiting: Option<WaitingAsk<'a>>,
    /// The number of the decision that stated this.
    pub number: u64,
    /// The log time of that decision; what has ended is forgotten by its age.
    pub at: Time,
}

/// A total shipped for a reservation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Directed<'a> {
    /// What it was directed at; each target has one total.
    #[serde(borrow)]
    pub to: ShipTarget<'a>,
    /// Above 0.
    pub quantity: Quantity,
}

/// What a `ship` was directed at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum ShipTarget<'a> {
    /// The line it named.
    Line(u32),
    /// No line named: the location that it left.
    #[serde(borrow)]
    Location(Location<'a>),
    /// Neither is kept apart any more: above [`TARGETS_MAX`] different ones.
    Any,
}

/// Different targets of ships kept apart per reservation and SKU; what is directed at others fills the
/// lines in order. Line numbers in a `ship` are free, and a sender must not be able to make one
/// record grow without end; no command has more than 100 lines.
pub const TARGETS_MAX: usize = 200;

/// An ask that waits at the SKU's owner, as it came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitingAsk<'a> {
    /// The number of the decision that took it in: its place among those that wait.
    pub since: u64,
    /// The step that it belongs to; its answer names it.
    pub step: u64,
    /// The lines wanted, as in [`AskKind::Hold`](crate::AskKind::Hold).
    #[serde(borrow)]
    pub lines: Vec<AskLine<'a>>,
    /// Hold as much of each line as stock allows.
    pub partial: bool,
    /// No other SKU is asked in this step: what is held is decided at once.
    pub sole: bool,
    /// These are all the lines there are on this SKU: what else is held falls to nothing.
    pub whole: bool,
}
