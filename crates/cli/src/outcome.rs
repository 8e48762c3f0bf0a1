//! `onhand outcome`: what was decided about one command, and why.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::client::{Client, Query};
use crate::command;
use crate::output::{Columns, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum OutcomeCommand {
    /// What was decided about commands of that name, with the numbers that decided it
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand outcome get 000123 --source till-7",
    ))]
    Get(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The command's id
    id: String,
    /// Who sent it
    #[arg(
        long,
        env = "ONHAND_SOURCE",
        default_value = "cli",
        value_name = "SOURCE"
    )]
    source: String,
}

pub(crate) fn run(outcome: OutcomeCommand, client: &Client, out: &Output) -> Result<()> {
    let OutcomeCommand::Get(args) = outcome;
    command::block_on(async {
        let query = Query::new("/v1/outcomes")
            .with("source", &args.source)
            .with("id", &args.id);
        let answer = client.fetch(query.as_str()).await?;
        command::items(&answer, out, &Columns::Outcome)
    })?
}
