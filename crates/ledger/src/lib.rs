//! The stock rules, pure: what a command does to stock, and nothing else.
//!
//! [`decide`] reads the state of one partition and a stamped input and says what follows from it;
//! [`apply`](State::apply) is the only change of state, live and in restore. There is no clock here,
//! no entropy, no file, no async and no log line: time comes in with the input.
//!
//! ```text
//!             Stamped input (command, ask, answer, tick) + log time
//!                                │
//!      &State ──► decide ────────▼──────► Decision ──► written to the log ──► State::apply
//!                 only reads      outcome, movements, levels,               only change
//!                                 holds, reservation, sends
//! ```
//!
//! Two kinds of owner live in each partition's state. The owner of a **SKU** holds its levels and the
//! holds on it, at all locations (`stock`, [`hold`]). The owner of a **reservation id** holds the
//! reservation ([`reservation`]); it asks SKU owners by [`Ask`]s and hears of them by [`Answer`]s,
//! which are records like any other.
//!
//! Modules in reading order:
//!
//! | module | holds |
//! |---|---|
//! | `values`, [`command`], [`decision`] | the words: names and amounts, what comes in, what follows |
//! | [`state`] | the state of a partition, `decide` and what goes before every rule: order, expiry, names |
//! | `draft` | a decision under construction |
//! | `stock`, `fold` | facts and counts; how figures fold by event time |
//! | [`hold`], [`reservation`] | the two owners of a reservation |
//! | `apply` | the only change of state |
//! | `sku`, `ids`, `index` | how it lies in memory |
//! | [`record`], `read` | the state in parts for changelog and snapshots; what readers see |

#![warn(missing_docs)]

mod apply;
pub mod command;
pub mod decision;
mod draft;
mod fold;
pub mod hold;
mod ids;
mod index;
mod read;
pub mod record;
pub mod reservation;
mod sku;
pub mod state;
mod stock;
#[cfg(feature = "testing")]
pub mod testing;
pub mod touched;
mod values;

pub use command::{
    Answer, Ask, AskKind, AskLine, AskPart, Body, Command, Fact, Figure, Input, LinePart,
    RequestLine, RestoreLine, Stamped, StateName, StockPlace, Verdict,
};
pub use decision::{
    Conflict, CountEnd, CountNote, Decision, Invalid, LevelAfter, LineNumbers, LineState, Movement,
    MovementKind, Notes, Outcome, Place, Reason, Rejection, Resolved, Send,
};
pub use read::Item;
pub use record::{StateKey, StateRecord};
pub use state::{Home, Level, Settings, State, decide, park};
pub use values::{Amount, Id, Location, Quantity, ReservationId, Sku, Source, Time};
