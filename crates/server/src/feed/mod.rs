//! The feed of changes: one reader of the log for all who follow it live, and each for himself who has
//! to catch up.
//!
//! ```text
//!  stock.decisions ─► [hub: one thread, renders each change once] ─► ring ─┬─► reader ─► socket
//!        └────────────────────────────► [catch up, own reads of the log] ──┘
//! ```
//! [`hub`] tails and shares, [`reader`] is one connection, [`catch_up`] reads from an old position,
//! [`snapshot`] puts the levels before the changes, [`frame`] is the form on the wire.

pub(crate) mod catch_up;
pub(crate) mod frame;
pub(crate) mod hub;
pub(crate) mod reader;
pub(crate) mod snapshot;
