//! `onhand stock`: levels and their history, and facts about them.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::client::feed::{Feed, Message, Start};
use crate::client::{Client, Query, encode};
use crate::command::{self, Draft, Identity, Quantity};
use crate::output::{Columns, Format, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum StockCommand {
    /// List levels, all unless filtered
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock ls --location london --below 5",
        "\n  onhand stock ls --as-of 2026-01-31T00:00:00Z -o csv",
    ))]
    Ls(LsArgs),
    /// The levels of one SKU, at all locations or one
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock get 85123A",
        "\n  onhand stock get 85123A london --known-at 2026-01-31T08:00:00Z",
    ))]
    Get(GetArgs),
    /// Every entry about a SKU, in log order
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock history 85123A --location london",
        "\n  onhand stock history 85123A --from 2026-01-31T00:00:00Z -o csv",
    ))]
    History(HistoryArgs),
    /// Changes as they happen; goes on where it was after a broken connection
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock watch --snapshot",
        "\n  onhand stock watch --sku 85123A --since earliest -o ndjson",
    ))]
    Watch(WatchArgs),
    /// Stock came in
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand stock receive 85123A london 10 --reference delivery/88",
    ))]
    Receive(ReceiveArgs),
    /// Stock went out, by a sale or against a reservation
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock ship 85123A london 6 --reason sale --reference invoice/536365",
        "\n  onhand stock ship 85123A london 2 --reservation basket-1",
    ))]
    Ship(ShipArgs),
    /// A customer brought it back
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand stock return 85123A london 1 --state quality_control",
    ))]
    Return(FactArgs),
    /// More or less is there than was known, by a signed quantity
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand stock adjust 85123A london -3 --reason damage --note \"fell off the shelf\"",
    ))]
    Adjust(FactArgs),
    /// From one location or state to another
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock move 85123A 4 --from london --to leeds",
        "\n  onhand stock move 85123A 1 --from london --to london:damaged",
    ))]
    Move(MoveArgs),
    /// So many were seen at that time
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand stock count 85123A london 37 --occurred-at 2026-01-31T18:00:00Z",
        "\n  onhand stock count 85123A london 100 --reason opening",
    ))]
    Count(FactArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only this SKU
    #[arg(long, env = "ONHAND_SKU", value_name = "SKU")]
    sku: Option<String>,
    /// Only SKUs that begin so
    #[arg(long, env = "ONHAND_SKU_PREFIX", value_name = "PREFIX")]
    sku_prefix: Option<String>,
    /// Only this location
    #[arg(long, env = "ONHAND_LOCATION", value_name = "LOCATION")]
    location: Option<String>,
    /// Only where less than N is available
    #[arg(
        long,
        env = "ONHAND_BELOW",
        value_name = "N",
        allow_hyphen_values = true
    )]
    below: Option<Quantity>,
    /// Only where on hand or available is negative
    #[arg(long, env = "ONHAND_NEGATIVE")]
    negative: bool,
    /// Stop after N levels
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    when: When,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The article, as your systems call it
    sku: String,
    /// Only this location
    #[arg(env = "ONHAND_LOCATION")]
    location: Option<String>,
    #[command(flatten)]
    when: When,
}

/// The two ways to ask about the past.
#[derive(Debug, Args)]
pub(crate) struct When {
    /// The stock at that time, with all that is known now (RFC 3339)
    #[arg(
        long,
        env = "ONHAND_AS_OF",
        value_name = "TIME",
        conflicts_with = "known_at"
    )]
    as_of: Option<String>,
    /// What was known then (RFC 3339, or a position)
    #[arg(long, env = "ONHAND_KNOWN_AT", value_name = "TIME|POSITION")]
    known_at: Option<String>,
}

impl When {
    fn add(&self, query: Query) -> Query {
        query
            .maybe("as_of", self.as_of.as_deref())
            .maybe("known_at", self.known_at.as_deref())
    }
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The article, as your systems call it
    sku: String,
    /// Only this location
    #[arg(long, env = "ONHAND_LOCATION", value_name = "LOCATION")]
    location: Option<String>,
    /// From this time on
    #[arg(long, env = "ONHAND_FROM", value_name = "TIME")]
    from: Option<String>,
    /// Up to this time
    #[arg(long, env = "ONHAND_TO", value_name = "TIME")]
    to: Option<String>,
    /// Stop after N entries
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only this SKU
    #[arg(long, env = "ONHAND_SKU", value_name = "SKU")]
    sku: Option<String>,
    /// Only this location
    #[arg(long, env = "ONHAND_LOCATION", value_name = "LOCATION")]
    location: Option<String>,
    /// Where to begin: earliest, latest or a position
    #[arg(
        long,
        env = "ONHAND_SINCE",
        default_value = "latest",
        value_name = "POSITION"
    )]
    since: String,
    /// The levels first, then what changes
    #[arg(long, env = "ONHAND_SNAPSHOT", conflicts_with = "since")]
    snapshot: bool,
    /// Stop after N changes
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
}

/// What every fact may carry.
#[derive(Debug, Args)]
pub(crate) struct Circumstances {
    #[command(flatten)]
    identity: Identity,
    /// When it happened (RFC 3339 with offset) [default: when the node gets it]
    #[arg(long, env = "ONHAND_OCCURRED_AT", value_name = "TIME")]
    occurred_at: Option<String>,
    /// Why, in a word: sale, damage, found, theft, opening, correction, other ...
    #[arg(long, env = "ONHAND_REASON", value_name = "WORD")]
    reason: Option<String>,
    /// Why, in your words
    #[arg(long, env = "ONHAND_NOTE", value_name = "TEXT")]
    note: Option<String>,
    /// The document behind it, such as invoice/536365
    #[arg(long, env = "ONHAND_REFERENCE", value_name = "URI")]
    reference: Option<String>,
}

impl Circumstances {
    fn draft(&self, kind: &str) -> Draft {
        Draft::new(&self.identity, Some(kind))
            .with("occurred_at", self.occurred_at.clone())
            .with("reason", self.reason.clone())
            .with("note", self.note.clone())
            .with("reference", self.reference.clone())
    }
}

/// Sellable or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    /// What is there, whatever its state (counts only).
    OnHand,
    Available,
    Damaged,
    QualityControl,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::OnHand => "on_hand",
            State::Available => "available",
            State::Damaged => "damaged",
            State::QualityControl => "quality_control",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FactArgs {
    /// The article, as your systems call it
    sku: String,
    /// The place, as your systems call it
    location: String,
    /// How many: 6, or 1.5 where the article is declared with decimals; -3 for an adjustment down
    #[arg(allow_hyphen_values = true)]
    quantity: Quantity,
    /// The state it is in
    #[arg(long, env = "ONHAND_STATE", value_enum)]
    state: Option<State>,
    #[command(flatten)]
    circumstances: Circumstances,
}

impl FactArgs {
    fn draft(&self, kind: &str) -> Draft {
        self.circumstances
            .draft(kind)
            .with("sku", self.sku.clone())
            .with("location", self.location.clone())
            .with("quantity", &self.quantity)
            .with("state", self.state.map(State::name))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    #[command(flatten)]
    fact: FactArgs,
    /// The expected supply that came
    #[arg(long, env = "ONHAND_SUPPLY", value_name = "SUPPLY")]
    supply: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ShipArgs {
    #[command(flatten)]
    fact: FactArgs,
    /// The reservation whose holds it ends
    #[arg(long, env = "ONHAND_RESERVATION", value_name = "ID")]
    reservation: Option<String>,
    /// The line of that reservation
    #[arg(
        long,
        env = "ONHAND_LINE",
        value_name = "LINE",
        requires = "reservation"
    )]
    line: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The article, as your systems call it
    sku: String,
    /// How many
    quantity: Quantity,
    /// From where: LOCATION or LOCATION:STATE; the states are available, damaged and quality_control. A
    /// location with a colon in its name needs its state: gln:414:available
    #[arg(long, value_name = "PLACE", value_parser = place)]
    from: Value,
    /// To where: as --from
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: Value,
    #[command(flatten)]
    circumstances: Circumstances,
}

/// Reads `LOCATION` or `LOCATION:STATE`. A location may hold colons when its state is written.
fn place(text: &str) -> Result<Value, String> {
    let (location, state) = match text.rsplit_once(':') {
        Some((location, state)) => (location, Some(state)),
        None => (text, None),
    };
    if location.is_empty() {
        return Err("a place needs a location; write london or london:damaged".to_owned());
    }
    match state {
        None => Ok(json!({"location": location})),
        Some("available" | "damaged" | "quality_control") => {
            Ok(json!({"location": location, "state": state}))
        }
        Some(other) => Err(format!(
            "{other:?} is no state: write available, damaged or quality_control behind the last colon; \
             of a location with a colon in its name the state is always written, \
             {text}:available"
        )),
    }
}

pub(crate) fn run(stock: StockCommand, client: &Client, out: &Output) -> Result<()> {
    command::block_on(dispatch(stock, client, out))?
}

async fn dispatch(stock: StockCommand, client: &Client, out: &Output) -> Result<()> {
    match stock {
        StockCommand::Ls(args) => ls(client, &args, out).await,
        StockCommand::Get(args) => get(client, &args, out).await,
        StockCommand::History(args) => {
            let query = Query::new("/v1/history")
                .with("sku", &args.sku)
                .maybe("location", args.location.as_deref())
                .maybe("from", args.from.as_deref())
                .maybe("to", args.to.as_deref());
            command::list(client, query, args.limit, out, &Columns::History).await
        }
        StockCommand::Watch(args) => watch(client, &args, out).await,
        StockCommand::Receive(args) => {
            tell(
                client,
                &args.fact.draft("receive").with("supply", args.supply),
                out,
            )
            .await
        }
        StockCommand::Ship(args) => {
            let line = args
                .line
                .map(|line| line.parse::<i64>().map_or(json!(line), Value::from));
            let draft = args
                .fact
                .draft("ship")
                .with("reservation", args.reservation);
            tell(client, &draft.with("line", line), out).await
        }
        StockCommand::Return(args) => tell(client, &args.draft("return"), out).await,
        StockCommand::Adjust(args) => tell(client, &args.draft("adjust"), out).await,
        StockCommand::Count(args) => tell(client, &args.draft("count"), out).await,
        StockCommand::Move(args) => {
            let draft = args
                .circumstances
                .draft("move")
                .with("sku", args.sku.clone());
            let draft = draft.with("quantity", &args.quantity);
            tell(
                client,
                &draft.with("from", args.from).with("to", args.to),
                out,
            )
            .await
        }
    }
}

async fn tell(client: &Client, draft: &Draft, out: &Output) -> Result<()> {
    command::send(client, "/v1/commands", draft, out).await
}

async fn ls(client: &Client, args: &LsArgs, out: &Output) -> Result<()> {
    let below = args.below.as_ref().map(|n| {
        let value = Value::from(n);
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    });
    let query = Query::new("/v1/stock")
        .maybe("sku", args.sku.as_deref())
        .maybe("sku_prefix", args.sku_prefix.as_deref())
        .maybe("location", args.location.as_deref())
        .maybe("below", below.as_deref())
        .maybe("negative", args.negative.then_some("true"));
    command::list(
        client,
        args.when.add(query),
        args.limit,
        out,
        &Columns::Level,
    )
    .await
}

async fn get(client: &Client, args: &GetArgs, out: &Output) -> Result<()> {
    let mut path = format!("/v1/stock/{}", encode(&args.sku));
    if let Some(location) = &args.location {
        path.push('/');
        path.push_str(&encode(location));
    }
    let answer = client
        .fetch(args.when.add(Query::new(path)).as_str())
        .await?;
    let rows = matches!(out.format(), Format::Table | Format::Csv);
    if args.location.is_some() || !rows {
        return out.answer(&answer.body, &Columns::Level);
    }
    let stock: Value = answer.parse()?;
    let levels = stock
        .get("levels")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut listing = out.listing(&Columns::Level);
    for level in &levels {
        listing.row(level)?;
    }
    if out.format() == Format::Table
        && levels.len() > 1
        && let Some(Value::Object(total)) = stock.get("total")
    {
        let mut total = total.clone();
        total.insert("sku".to_owned(), json!("total"));
        listing.row(&Value::Object(total))?;
    }
    listing.finish()
}

async fn watch(client: &Client, args: &WatchArgs, out: &Output) -> Result<()> {
    let start = if args.snapshot {
        Start::Snapshot
    } else {
        Start::Since(args.since.clone())
    };
    let mut feed = Feed::new(client, start)
        .only("sku", args.sku.as_deref())
        .only("location", args.location.as_deref());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let table = out.format() == Format::Table;
    let mut listing = (!table).then(|| out.listing(&Columns::Change));
    while left > 0 {
        match feed.next().await? {
            Message::Level(level) | Message::Change(level) if table => {
                println!("{}", change_line(&level));
                left -= 1;
            }
            Message::Level(line) | Message::Change(line) => {
                if let Some(listing) = &mut listing {
                    listing.row(&line)?;
                    listing.end_of_page()?;
                }
                left -= 1;
            }
            Message::SnapshotEnd => eprintln!("that was the stock; from here on what changes"),
            Message::Resumed { why, anew: false } => {
                eprintln!("the feed broke ({why}); resumed without a gap");
            }
            Message::Resumed { why, anew: true } => {
                eprintln!("the feed broke ({why}); the stock is shown anew, from its beginning");
            }
        }
    }
    match listing {
        Some(listing) => listing.finish(),
        None => Ok(()),
    }
}

/// One change (or level) on one line of 80 columns.
fn change_line(item: &Value) -> String {
    let text = |at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let level = item.get("level").unwrap_or(item);
    let figure = |name: &str| {
        level
            .get(name)
            .map_or_else(|| "?".to_owned(), |n| n.to_string().replace('"', ""))
    };
    let moved = item.get("delta").and_then(Value::as_object).map(|delta| {
        let signed = |(state, n): (&String, &Value)| {
            let n = n.to_string().replace('"', "");
            format!("{state} {}{n}", if n.starts_with('-') { "" } else { "+" })
        };
        delta.iter().map(signed).collect::<Vec<_>>().join(" ")
    });
    let at = text("/at").get(11..19).unwrap_or(text("/at"));
    let place = format!("{} {}", text("/sku"), text("/location"));
    let cause = match (text("/cause/type"), text("/cause/source")) {
        ("", _) => String::new(),
        (kind, source) => format!(" ({kind} by {source})"),
    };
    format!(
        "{at:8} {place:<24} on hand {:>6}  available {:>6}  {}{cause}",
        figure("on_hand"),
        figure("available"),
        moved.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_may_name_its_state() {
        assert_eq!(place("london"), Ok(json!({"location": "london"})));
        let damaged = json!({"location": "london", "state": "damaged"});
        assert_eq!(place("london:damaged"), Ok(damaged));
        let colon = json!({"location": "gln:414", "state": "available"});
        assert_eq!(place("gln:414:available"), Ok(colon));
        for wrong in ["", ":damaged", "london:damged", "london:", "gln:414"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
        let typo = place("london:damged").expect_err("no state");
        assert!(typo.contains("quality_control"), "{typo}");
    }

    #[test]
    fn a_change_reads_on_one_line() {
        let change = json!({
            "sku": "A", "location": "shop", "at": "2010-12-01T08:26:00Z",
            "cause": {"source": "till", "type": "ship", "id": "1"},
            "delta": {"on_hand": -2}, "level": {"on_hand": 4, "available": 4},
        });
        assert_eq!(
            change_line(&change),
            "08:26:00 A shop                   on hand      4  available      4  on_hand -2 \
             (ship by till)"
        );
    }
}
