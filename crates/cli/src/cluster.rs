//! `onhand cluster`: the instances on one log, and which of them owns what.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::client::Client;
use crate::command;
use crate::output::{Columns, Format, Output};

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {}

pub(crate) fn run(_args: &ClusterArgs, client: &Client, out: &Output) -> Result<()> {
    command::block_on(async {
        let answer = client.fetch("/v1/cluster").await?;
        if matches!(out.format(), Format::Json | Format::Ndjson) {
            return out.answer(&answer.body, &Columns::Member);
        }
        let cluster: Value = answer.parse()?;
        let list = |name: &str| cluster.get(name).and_then(Value::as_array);
        // A file of rows has one kind of row.
        if out.format() == Format::Table {
            let mut members = out.listing(&Columns::Member);
            for member in list("members").into_iter().flatten() {
                members.row(member)?;
            }
            members.finish()?;
            println!();
        }
        let mut partitions = out.listing(&Columns::Place);
        for place in list("partitions").into_iter().flatten() {
            partitions.row(place)?;
        }
        partitions.finish()
    })?
}
