//! A whole node, spoken to over HTTP: every promise of the API that can be seen from outside.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as their tests do; JSON is looked into by index"
)]

mod commands;
mod feed;
mod fields;
mod lists;
mod others;
mod past;
mod reservations;
mod several;
mod shutdown;
mod standby;
mod stream;
mod support;
mod table;
