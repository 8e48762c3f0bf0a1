//! The HTTP side of a node, and the node as a whole: [`run`].
//!
//! ```text
//!            ┌─ intake ── parse, pack ─► submit ─► [owners: onhand-flows] ─► [log]
//!  HTTP ─► routes                                     │ tickets               │
//!            ├─ reads ── query the owners ◄───────────┘                       │
//!            └─ feed, history, as of ◄─── decisions, read from the log ◄──────┘
//! ```
//!
//! It knows no stock rules: it turns JSON into commands, hands them to the owners of their keys, and
//! turns decisions into JSON. Everything that leaves is durable.
//!
//! Modules in reading order: [`config`], `node` (start and end), `ground` (the engines), `http` (the
//! listener and the table of addresses), `door` (from one to the other), `routes` (one file per thing
//! asked for), `wire` (the JSON), `intake` (commands, one and many), `engine` and `decisions` (the way to
//! owners and log), `placement` and `standing_by` (partitions come and go, and are followed), `peers` (other instances), `stale` (reads that may be old), [`position`], `feed`,
//! `residents` (what other programs write to the log, and read in it), `metrics`.

mod app;
pub mod config;
mod decisions;
mod door;
mod engine;
mod feed;
mod ground;
mod http;
mod intake;
mod metrics;
mod node;
mod peers;
mod placement;
pub mod position;
mod residents;
mod routes;
mod stale;
mod standing_by;
mod wire;

pub use config::{Config, Durability, KafkaConfig, Limits, LogEngine, ViewChoice};
pub use ground::{Ground, look_at_log, open_log, who_serves};
pub use node::{RunError, run, run_on};
