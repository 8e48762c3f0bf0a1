//! The stream-processing library that onhand's flows run on.
//!
//! A **task** owns one partition: it reads records, lets a [`Processor`] change its state, and commits
//! outputs, changelog and input position in one append. A **worker** is a thread that drives tasks and
//! takes in what callers submit to them.
//!
//! ```text
//!  submit ─► [inbox] ─► append to the input topic ─► task: read, process, append ─► flush
//!    ticket ◄─────────── when the append is durable ◄──────────────────────────────┘
//! ```
//!
//! State is restored from the changelog, the latest record of each key, and from the records of the
//! task's **redo** topic behind it (its decisions), which are applied again but never decided again.
//! The changelog is written behind the redo topic, at a rate bounded by it: see [`task`]. Snapshot files
//! only shorten a restart; they can always be deleted.
//!
//! This crate knows nothing of HTTP, Kafka or stock.
//!
//! Modules in reading order: [`processor`], [`task`], `cut` (steps that end within a record), `publish`
//! (what is written for others in the same append), [`restore`],
//! [`snapshot`], [`worker`], `inbox` (the way in), `round` (what a worker's thread does), `recovery` (what
//! else it does), `inflight` (what waits for a sync), `tickets` (who waits for what), `opener` (partitions
//! come and go), `standby`, `following` and `warm` (partitions that others own, followed).

#![warn(missing_docs)]

mod claim;
mod cut;
mod following;
mod inbox;
mod inflight;
mod opener;
pub mod processor;
mod publish;
mod recovery;
pub mod restore;
mod round;
pub mod snapshot;
mod standby;
pub mod task;
mod tickets;
mod warm;
pub mod worker;

pub use cut::{CUT_HEADER, Cut};
pub use inbox::{SubmitError, WorkerHandle, WorkerStats};
pub use opener::Opener;
pub use processor::{Delivery, Processor, Step, Ticket};
pub use publish::{PUBLISHED_HEADER, Publish, Published};
pub use restore::{REDO_MARK, RestoreError, Restored};
pub use standby::{Following, Standbys};
pub use task::{TaskSpec, Topics, owner_of};
pub use worker::{AtStart, Worker, WorkerConfig};
