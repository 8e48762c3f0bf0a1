//! `onhand conflict`: where what we hold and what others say disagree.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use crate::client::{Client, Query};
use crate::command;
use crate::output::{Columns, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictCommand {
    /// List open conflicts
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand conflict ls --kind oversell",
    ))]
    Ls(LsArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A count disagrees with the ledger.
    Drift,
    /// More is promised than there is.
    Oversell,
    /// A channel accepted an order that had been released.
    #[value(name = "commit_after_release")]
    CommitAfterRelease,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only this kind
    #[arg(long, env = "ONHAND_KIND", value_enum)]
    kind: Option<Kind>,
    /// Stop after N conflicts
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
}

pub(crate) fn run(conflict: ConflictCommand, client: &Client, out: &Output) -> Result<()> {
    let ConflictCommand::Ls(args) = conflict;
    let kind = args.kind.map(|kind| match kind {
        Kind::Drift => "drift",
        Kind::Oversell => "oversell",
        Kind::CommitAfterRelease => "commit_after_release",
    });
    let query = Query::new("/v1/conflicts").maybe("kind", kind);
    command::block_on(command::list(
        client,
        query,
        args.limit,
        out,
        &Columns::Conflict,
    ))?
}
