//! A whole node, spoken to over HTTP: every promise of the surface that can be seen from outside.

mod commands;
mod feed;
mod fields;
mod lists;
mod past;
mod reservations;
mod shutdown;
mod stream;
mod support;
