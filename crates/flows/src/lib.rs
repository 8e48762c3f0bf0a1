//! onhand's own topologies: what turns commands in the log into decisions in the log.
//!
//! ```text
//!  stock.commands ─► [Stock: decide, apply] ─┬─► stock.decisions   the truth, small and binary
//!       ▲                                    ├─► stock.state       changelog, compacted
//!       └──── asks and answers ──────────────┤
//!             between owners                 └─► dead-letters      what could not be processed
//! ```
//!
//! [`Stock`] runs the two flows of the ledger, stock by SKU and reservations by id, in one task per
//! partition. It does no I/O: the worker of `onhand-streams` reads and appends for it.
//!
//! Modules in reading order: [`topics`], [`pack`], [`stock`], [`node`], [`copy`] (the log onto another engine).

pub mod copy;
pub mod node;
pub mod pack;
pub mod stock;
pub mod topics;

pub use node::{GATE, Node, NodeConfig, STOCK, StartError, VIEWS, owners, partitions_of, start};
pub use pack::{CommandPack, DecisionReader, PackError, key_of};
pub use stock::Stock;
