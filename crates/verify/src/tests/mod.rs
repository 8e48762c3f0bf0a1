//! The checker against logs written by hand, and against a real node's.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may fail by panic"
)]

mod book;
mod planted;
mod story;
