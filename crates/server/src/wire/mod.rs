//! What goes over the wire: the only place that knows the JSON of outsiders.
//!
//! In: [`command`] reads a line by way of [`value`] and [`field`], and says [`refusal`]s. Out:
//! [`outcome`], [`level`], [`change`], [`reservation`], [`conflict`] and [`problem`] are written with
//! [`write`].

pub(crate) mod change;
pub(crate) mod command;
pub(crate) mod conflict;
pub(crate) mod field;
pub(crate) mod level;
pub(crate) mod outcome;
pub(crate) mod problem;
pub(crate) mod refusal;
pub(crate) mod reservation;
pub(crate) mod value;
pub(crate) mod write;
