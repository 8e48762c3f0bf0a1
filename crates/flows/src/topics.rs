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

/// Commands as JSON, from whoever can write to the log: any key, any partition.
pub const INBOX: &str = "stock.inbox";
/// A view for others: every change of a level as JSON, by SKU.
pub const CHANGES: &str = "stock.changes";
/// A view for others: the outcome of every command as JSON, by the command's source and id.
pub const OUTCOMES: &str = "stock.outcomes";
/// A view for others, compacted: every level as it stands, as JSON, by SKU and location.
pub const LEVELS: &str = "stock.levels";
/// A view for others, compacted: every reservation as it stands, as JSON, by its id.
pub const RESERVATIONS: &str = "stock.reservations";

/// Those that every log has, with that many partitions.
pub fn specs(partitions: u16) -> [TopicSpec; 4] {
    [
        spec(COMMANDS, partitions, false),
        spec(DECISIONS, partitions, false),
        spec(STATE, partitions, true),
        spec(DEAD_LETTERS, partitions, false),
    ]
}

/// The topic that others write commands to. It has as many partitions as the others, so that whoever
/// owns one of them owns one of these.
pub fn inbox_spec(partitions: u16) -> TopicSpec {
    spec(INBOX, partitions, false)
}

/// The topics that others read: changes, outcomes, levels, reservations. What stands in a partition of
/// them comes from the same partition of the decisions.
pub fn view_specs(partitions: u16) -> [TopicSpec; 4] {
    [
        spec(CHANGES, partitions, false),
        spec(OUTCOMES, partitions, false),
        spec(LEVELS, partitions, true),
        spec(RESERVATIONS, partitions, true),
    ]
}

fn spec(name: &str, partitions: u16, compacted: bool) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        partitions,
        compacted,
    }
}
