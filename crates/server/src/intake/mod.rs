//! Commands on their way in: one at a time ([`single`]), or as a stream ([`stream`]).
//!
//! ```text
//!  body ─► [lines] ─► [chunk: parse, pack by partition] ─► submit ─┐
//!                                                                  ▼ decided, durable
//!  answer ◄─ [render, in order] ◄─ [queue, or spool on disk] ◄─ [ticket]
//! ```

pub(crate) mod chunk;
pub(crate) mod elsewhere;
pub(crate) mod lines;
pub(crate) mod queue;
pub(crate) mod render;
pub(crate) mod settled;
pub(crate) mod single;
pub(crate) mod spool;
pub(crate) mod stream;
pub(crate) mod ticket;
