//! `onhand reservation`: ask for stock, and what becomes of what was granted.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::{Client, Query, encode};
use crate::command::{self, Draft, Identity, Quantity};
use crate::output::{Columns, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum ReservationCommand {
    /// Ask for one or more lines; all or nothing unless --partial
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand reservation create 85123A=2 22423=1@london --reservation basket-1 --ttl 600",
        "\n  onhand reservation create 85123A=50 --partial",
    ))]
    Create(CreateArgs),
    /// One reservation as it stands
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand reservation get basket-1",
    ))]
    Get(GetArgs),
    /// List reservations
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand reservation ls --state granted --sku 85123A",
    ))]
    Ls(LsArgs),
    /// The order is firm: what is reserved becomes committed
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand reservation confirm basket-1",
        "\n  onhand reservation confirm basket-1 1=2    two of line 1",
    ))]
    Confirm(StepArgs),
    /// Give back what is still held
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand reservation release basket-1",
        "\n  onhand reservation release basket-1 2=1    one of line 2",
    ))]
    Release(StepArgs),
    /// Keep it longer
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand reservation extend basket-1 --ttl 1800",
    ))]
    Extend(ExtendArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to hold: SKU=QUANTITY or SKU=QUANTITY@LOCATION
    #[arg(required = true, value_name = "LINE", value_parser = asked_line)]
    lines: Vec<Value>,
    /// Name of the reservation [default: SOURCE/ID]
    #[arg(long, env = "ONHAND_RESERVATION", value_name = "ID")]
    reservation: Option<String>,
    /// How long to hold it, in seconds [default: the node's, 900]
    #[arg(long, env = "ONHAND_TTL", value_name = "SECONDS")]
    ttl: Option<u64>,
    /// The sales channel it is for
    #[arg(long, env = "ONHAND_CHANNEL", value_name = "CHANNEL")]
    channel: Option<String>,
    /// Take what there is
    #[arg(long, env = "ONHAND_PARTIAL")]
    partial: bool,
    #[command(flatten)]
    identity: Identity,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Its name
    reservation: String,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only those with a line on this SKU
    #[arg(long, env = "ONHAND_SKU", value_name = "SKU")]
    sku: Option<String>,
    /// Only those with a line at this location
    #[arg(long, env = "ONHAND_LOCATION", value_name = "LOCATION")]
    location: Option<String>,
    /// Only those in this state
    #[arg(long, env = "ONHAND_STATE", value_name = "STATE")]
    state: Option<String>,
    /// Only those of this channel
    #[arg(long, env = "ONHAND_CHANNEL", value_name = "CHANNEL")]
    channel: Option<String>,
    /// Stop after N reservations
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct StepArgs {
    /// Its name
    reservation: String,
    /// Only this much of these lines: LINE=QUANTITY [default: all that is open]
    #[arg(value_name = "LINE", value_parser = part_of_line)]
    lines: Vec<Value>,
    #[command(flatten)]
    identity: Identity,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// Its name
    reservation: String,
    /// How long from now, in seconds [default: the node's, 900]
    #[arg(long, env = "ONHAND_TTL", value_name = "SECONDS")]
    ttl: Option<u64>,
    #[command(flatten)]
    identity: Identity,
}

/// `SKU=QUANTITY[@LOCATION]`. A SKU may hold `=`: the last one counts.
fn asked_line(text: &str) -> Result<Value, String> {
    let hint = || format!("{text:?} is not a line; write SKU=2 or SKU=2@london");
    let (sku, rest) = text.rsplit_once('=').ok_or_else(hint)?;
    let (quantity, location) = match rest.split_once('@') {
        Some((quantity, location)) => (quantity, Some(location)),
        None => (rest, None),
    };
    if sku.is_empty() || location == Some("") {
        return Err(hint());
    }
    let quantity: Quantity = quantity.parse()?;
    let mut line = Map::new();
    line.insert("sku".to_owned(), json!(sku));
    line.insert("quantity".to_owned(), quantity.into());
    if let Some(location) = location {
        line.insert("location".to_owned(), json!(location));
    }
    Ok(Value::Object(line))
}

/// `LINE=QUANTITY`; a line that is a number goes out as one.
fn part_of_line(text: &str) -> Result<Value, String> {
    let hint = || format!("{text:?} is not a part of a line; write 1=2 for two of line 1");
    let (line, quantity) = text.rsplit_once('=').ok_or_else(hint)?;
    if line.is_empty() {
        return Err(hint());
    }
    let quantity: Quantity = quantity.parse()?;
    let line = line
        .parse::<i64>()
        .map_or_else(|_| json!(line), Value::from);
    Ok(json!({"line": line, "quantity": Value::from(quantity)}))
}

pub(crate) fn run(reservation: ReservationCommand, client: &Client, out: &Output) -> Result<()> {
    command::block_on(dispatch(reservation, client, out))?
}

async fn dispatch(reservation: ReservationCommand, client: &Client, out: &Output) -> Result<()> {
    match reservation {
        ReservationCommand::Create(args) => {
            let draft = Draft::new(&args.identity, None)
                .with("reservation", args.reservation)
                .with("lines", args.lines)
                .with("ttl_s", args.ttl)
                .with("channel", args.channel)
                .with("partial", args.partial.then_some(true));
            command::send(client, "/v1/reservations", &draft, out).await
        }
        ReservationCommand::Get(args) => {
            let path = format!("/v1/reservations/{}", encode(&args.reservation));
            let answer = client.fetch(&path).await?;
            out.answer(&answer.body, &Columns::Reservation)
        }
        ReservationCommand::Ls(args) => {
            let query = Query::new("/v1/reservations")
                .maybe("sku", args.sku.as_deref())
                .maybe("location", args.location.as_deref())
                .maybe("state", args.state.as_deref())
                .maybe("channel", args.channel.as_deref());
            command::list(client, query, args.limit, out, &Columns::Reservation).await
        }
        ReservationCommand::Confirm(args) => step(client, "confirm", args, out).await,
        ReservationCommand::Release(args) => step(client, "release", args, out).await,
        ReservationCommand::Extend(args) => {
            let draft = Draft::new(&args.identity, None).with("ttl_s", args.ttl);
            let path = format!("/v1/reservations/{}/extend", encode(&args.reservation));
            command::send(client, &path, &draft, out).await
        }
    }
}

async fn step(client: &Client, name: &str, args: StepArgs, out: &Output) -> Result<()> {
    let lines = (!args.lines.is_empty()).then_some(args.lines);
    let draft = Draft::new(&args.identity, None).with("lines", lines);
    let path = format!("/v1/reservations/{}/{name}", encode(&args.reservation));
    command::send(client, &path, &draft, out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_sku_quantity_and_perhaps_a_location() {
        assert_eq!(asked_line("A=2"), Ok(json!({"sku": "A", "quantity": 2})));
        let placed = json!({"sku": "a=b", "quantity": "1.5", "location": "x@y"});
        assert_eq!(asked_line("a=b=1.5@x@y"), Ok(placed));
        for wrong in ["A", "=2", "A=", "A=two", "A=2@"] {
            assert!(asked_line(wrong).is_err(), "{wrong}");
        }
        assert_eq!(part_of_line("1=2"), Ok(json!({"line": 1, "quantity": 2})));
        assert_eq!(
            part_of_line("gift=1"),
            Ok(json!({"line": "gift", "quantity": 1}))
        );
        assert!(part_of_line("=1").is_err());
    }
}
