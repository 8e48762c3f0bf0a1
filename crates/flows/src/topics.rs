//! The topics of the stock flows.

use onhand_log::TopicSpec;

/// What came in, stamped: packs of inputs, partitioned by the command's key. Only onhand writes it.
pub const COMMANDS: &str = "stock.commands";
/// The truth: packs of decisions.
pub const DECISIONS: &str = "stock.decisions";
/// The state's changelog, by part of the state.
pub const STATE: &str = "stock.state";
/// What could not be read or processed, whole, with origin and reason.
pub const DEAD_LETTERS: &str = "dead-letters";

/// All of them, with that many partitions.
pub fn specs(partitions: u16) -> [TopicSpec; 4] {
    let spec = |name: &str, compacted| TopicSpec {
        name: name.to_owned(),
        partitions,
        compacted,
    };
    [
        spec(COMMANDS, false),
        spec(DECISIONS, false),
        spec(STATE, true),
        spec(DEAD_LETTERS, false),
    ]
}
