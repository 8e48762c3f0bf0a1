//! How data is printed: a table for people, JSON and NDJSON as the node wrote them, CSV.
//!
//! One definition of the columns of each kind of thing serves tables and CSV alike.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

/// Rows of a table held back to find its widths; a longer list repeats its header.
const TABLE_ROWS_MAX: usize = 1_000;

/// The formats of `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated, with a header.
    Csv,
}

/// One column: where its value stands, and how it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    /// JSON pointers, the first that is there counts.
    at: &'static [&'static str],
    /// Numbers stand right.
    number: bool,
    /// Left out of a table in which it is empty or 0 in every row.
    spare: bool,
    /// Only in CSV: too wide, or of no use to the eye.
    csv_only: bool,
}

const fn text(title: &'static str, at: &'static [&'static str]) -> Column {
    Column {
        title,
        at,
        number: false,
        spare: false,
        csv_only: false,
    }
}

const fn number(title: &'static str, at: &'static [&'static str]) -> Column {
    Column {
        title,
        at,
        number: true,
        spare: false,
        csv_only: false,
    }
}

const fn spare(column: Column) -> Column {
    Column {
        spare: true,
        ..column
    }
}

const fn csv_only(column: Column) -> Column {
    Column {
        csv_only: true,
        ..column
    }
}

/// What is printed, and so which columns it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    Level,
    History,
    Change,
    Outcome,
    Reservation,
    Conflict,
    Topic,
    Record,
    Member,
    Place,
}

const LEVEL: &[Column] = &[
    text("sku", &["/sku"]),
    text("location", &["/location"]),
    number("on_hand", &["/on_hand"]),
    number("available", &["/available"]),
    spare(number("reserved", &["/reserved"])),
    spare(number("committed", &["/committed"])),
    spare(number("damaged", &["/damaged"])),
    spare(number("quality_control", &["/quality_control"])),
    spare(number("safety_stock", &["/safety_stock"])),
    spare(number("incoming", &["/incoming"])),
    spare(number("in_transit", &["/in_transit"])),
    csv_only(number("sequence", &["/sequence"])),
    csv_only(text("position", &["/position"])),
    csv_only(text("at", &["/at"])),
];

const HISTORY: &[Column] = &[
    text("occurred_at", &["/occurred_at"]),
    csv_only(text("received_at", &["/received_at"])),
    csv_only(text("applied_at", &["/applied_at"])),
    csv_only(text("sku", &["/sku"])),
    text("location", &["/location"]),
    text("type", &["/cause/type"]),
    text("delta", &["/delta"]),
    number("on_hand", &["/balance/on_hand"]),
    number("available", &["/balance/available"]),
    text("source", &["/cause/source"]),
    csv_only(text("id", &["/cause/id"])),
    spare(text("reason", &["/reason"])),
    spare(text("reference", &["/reference"])),
    csv_only(text("note", &["/note"])),
    csv_only(text("position", &["/position"])),
];

/// A change of the feed, or a level of its snapshot.
const CHANGE: &[Column] = &[
    text("at", &["/at"]),
    text("sku", &["/sku"]),
    text("location", &["/location"]),
    number("sequence", &["/sequence"]),
    text("type", &["/cause/type"]),
    text("source", &["/cause/source"]),
    text("id", &["/cause/id"]),
    text("delta", &["/delta"]),
    number("on_hand", &["/level/on_hand", "/on_hand"]),
    number("available", &["/level/available", "/available"]),
    number("reserved", &["/level/reserved", "/reserved"]),
    number("committed", &["/level/committed", "/committed"]),
    number("damaged", &["/level/damaged", "/damaged"]),
    number(
        "quality_control",
        &["/level/quality_control", "/quality_control"],
    ),
    text("position", &["/position"]),
];

const OUTCOME: &[Column] = &[
    text("id", &["/id", "/reservation"]),
    text("source", &["/source"]),
    text("status", &["/outcome", "/status", "/state"]),
    spare(text("first", &["/first/outcome", "/first/status"])),
    spare(text(
        "reservation",
        &["/reservation/reservation", "/first/reservation/reservation"],
    )),
    spare(text(
        "lines",
        &["/reservation/lines", "/first/reservation/lines"],
    )),
    spare(text("expires_at", &["/reservation/expires_at"])),
    spare(text("reason", &["/reason", "/first/reason"])),
    spare(text("numbers", &["/lines", "/first/lines"])),
    spare(text("hold", &["/hold", "/first/hold"])),
    spare(text("dead_letter", &["/dead_letter", "/first/dead_letter"])),
    spare(number("counted", &["/counted"])),
    spare(number("expected", &["/expected"])),
    spare(number("drift", &["/drift"])),
    spare(number(
        "on_hand",
        &["/levels/0/on_hand", "/first/levels/0/on_hand"],
    )),
    spare(number(
        "available",
        &["/levels/0/available", "/first/levels/0/available"],
    )),
    csv_only(text("position", &["/position"])),
];

const RESERVATION: &[Column] = &[
    text("reservation", &["/reservation"]),
    text("state", &["/state"]),
    spare(text("channel", &["/channel"])),
    text("lines", &["/lines"]),
    spare(text("expires_at", &["/expires_at"])),
    csv_only(text("source", &["/source"])),
    csv_only(text("created_at", &["/created_at"])),
    csv_only(text("ended_at", &["/ended_at"])),
    csv_only(text("position", &["/position"])),
];

const CONFLICT: &[Column] = &[
    text("kind", &["/kind"]),
    spare(text("sku", &["/sku"])),
    spare(text("location", &["/location"])),
    spare(number("counted", &["/counted"])),
    spare(number("expected", &["/expected"])),
    spare(number("drift", &["/drift"])),
    spare(number("available", &["/available"])),
    spare(number("on_hand", &["/on_hand"])),
    spare(text("reservation", &["/reservation"])),
    spare(text("source", &["/source"])),
    text("since", &["/since", "/counted_at", "/at"]),
    spare(text("state", &["/state"])),
    csv_only(text("id", &["/id"])),
];

const TOPIC: &[Column] = &[
    text("topic", &["/topic"]),
    number("partitions", &["/partitions"]),
    text("compacted", &["/compacted"]),
    number("records", &["/records"]),
    spare(number("bytes", &["/bytes"])),
];

const RECORD: &[Column] = &[
    text("topic", &["/topic"]),
    number("partition", &["/partition"]),
    number("offset", &["/offset"]),
    text("time", &["/time"]),
    text("key", &["/key"]),
    number("bytes", &["/bytes"]),
    csv_only(text("value", &["/value"])),
];

/// An instance.
const MEMBER: &[Column] = &[
    text("name", &["/name"]),
    text("address", &["/address"]),
    text("state", &["/state"]),
    text("incarnation", &["/incarnation"]),
    text("me", &["/me"]),
];

/// Where a partition is.
const PLACE: &[Column] = &[
    number("partition", &["/partition"]),
    text("assigned", &["/assigned"]),
    text("holder", &["/holder"]),
    text("open_here", &["/open_here"]),
    number("restoring", &["/restoring"]),
    text("standbys", &["/standbys"]),
    text("standby_here", &["/standby_here/state"]),
    number("lag", &["/standby_here/lag"]),
    number("stale_ms", &["/standby_here/stale_ms"]),
];

impl Columns {
    fn list(self) -> &'static [Column] {
        match self {
            Columns::Level => LEVEL,
            Columns::History => HISTORY,
            Columns::Change => CHANGE,
            Columns::Outcome => OUTCOME,
            Columns::Reservation => RESERVATION,
            Columns::Conflict => CONFLICT,
            Columns::Topic => TOPIC,
            Columns::Record => RECORD,
            Columns::Member => MEMBER,
            Columns::Place => PLACE,
        }
    }
}

impl Column {
    fn value(&self, item: &Value) -> String {
        self.at
            .iter()
            .find_map(|at| item.pointer(at))
            .map(plain)
            .unwrap_or_default()
    }
}

/// A value as a cell: objects as `name value`, lists one after the other.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => list.iter().map(line).collect::<Vec<_>>().join("; "),
        Value::Object(map) => {
            let parts = map
                .iter()
                .map(|(name, value)| format!("{name} {}", plain(value)));
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

/// What may stand against what was asked, in a refusal's line.
pub(crate) const STOOD: &[&str] = &["available", "open", "done", "on_hand", "declared"];

/// A reservation's line reads as `2 x SKU at place`; anything else as [`plain`].
fn line(value: &Value) -> String {
    let get = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| value.get(*name))
            .map(plain)
            .unwrap_or_default()
    };
    let sku = get(&["sku"]);
    if sku.is_empty() {
        return plain(value);
    }
    let (granted, requested) = (get(&["granted"]), get(&["requested", "expected"]));
    // What was granted of it, where that is less. All that was ever granted may be more, in a
    // reservation that was stated anew.
    let less = |a: &str, b: &str| {
        let number = |text: &str| text.parse::<f64>().ok();
        number(a).zip(number(b)).is_some_and(|(a, b)| a < b)
    };
    let quantity = if less(&granted, &requested) {
        format!("{granted} of {requested}")
    } else if requested.is_empty() {
        granted
    } else {
        requested
    };
    let location = get(&["location"]);
    let mut said = format!("{quantity} x {sku}");
    if !location.is_empty() {
        said.push_str(&format!(" at {location}"));
    }
    // Of a refusal: what there was.
    for name in STOOD {
        let stood = get(&[name]);
        if !stood.is_empty() {
            said.push_str(&format!(", {} {stood}", name.replace('_', " ")));
        }
    }
    for state in ["reserved", "committed", "shipped", "given_back"] {
        let units = get(&[state]);
        if !units.is_empty() && units != "0" {
            said.push_str(&format!(", {} {units}", state.replace('_', " ")));
        }
    }
    said
}

/// Where data goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(asked: Option<Format>) -> Output {
        let terminal = std::io::stdout().is_terminal();
        let default = if terminal {
            Format::Table
        } else {
            Format::Ndjson
        };
        Output {
            format: asked.unwrap_or(default),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints one answer of the node. JSON goes out as it came.
    pub(crate) fn answer(&self, body: &[u8], columns: &Columns) -> Result<()> {
        match self.format {
            Format::Json | Format::Ndjson => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(body.trim_ascii_end())?;
                stdout.write_all(b"\n")?;
                stdout.flush().context("cannot write to stdout")
            }
            Format::Table | Format::Csv => {
                let value: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
                let mut listing = self.listing(columns);
                listing.row(&value)?;
                listing.finish()
            }
        }
    }

    /// Starts a list of unknown length.
    pub(crate) fn listing(&self, columns: &Columns) -> Listing {
        Listing {
            format: self.format,
            columns: columns.list(),
            rows: Vec::new(),
            csv: (self.format == Format::Csv).then(|| csv::Writer::from_writer(std::io::stdout())),
            items: 0,
        }
    }

    /// Prints lines for people, or all facts: as one JSON object, or a figure a line of CSV.
    pub(crate) fn summary(&self, lines: &[(String, String)], facts: &Value) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        match self.format {
            Format::Json | Format::Ndjson => writeln!(stdout, "{facts}")?,
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(stdout);
                writer.write_record(["figure", "value"])?;
                let mut figures = Vec::new();
                flatten("", facts, &mut figures);
                for (name, value) in figures {
                    writer.write_record([name, value])?;
                }
                writer.flush()?;
            }
            Format::Table => {
                let mut table = new_table();
                for (name, value) in lines {
                    table.add_row([name, value]);
                }
                align_right(&mut table, 1);
                writeln!(stdout, "{}", table.trim_fmt())?;
            }
        }
        Ok(())
    }
}

/// A list being printed as it arrives; memory stays bounded by a page.
#[derive(Debug)]
pub(crate) struct Listing {
    format: Format,
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
    csv: Option<csv::Writer<std::io::Stdout>>,
    items: u64,
}

impl Listing {
    /// One item as the node wrote it.
    pub(crate) fn item(&mut self, json: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        match self.format {
            Format::Ndjson => writeln!(stdout, "{json}")?,
            Format::Json => {
                let before = if self.items == 0 { "[" } else { ",\n" };
                write!(stdout, "{before}{json}")?;
            }
            Format::Table | Format::Csv => {
                drop(stdout);
                let value = serde_json::from_str(json).context("an item is no JSON")?;
                return self.row(&value);
            }
        }
        self.items += 1;
        Ok(())
    }

    /// One item as a value.
    pub(crate) fn row(&mut self, value: &Value) -> Result<()> {
        let row: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.value(value))
            .collect();
        match &mut self.csv {
            Some(writer) => {
                if self.items == 0 {
                    writer.write_record(self.columns.iter().map(|column| column.title))?;
                }
                writer.write_record(&row)?;
            }
            None if matches!(self.format, Format::Table) => {
                self.rows.push(row);
                if self.rows.len() >= TABLE_ROWS_MAX {
                    self.print_rows()?;
                }
            }
            None => return self.item(&value.to_string()),
        }
        self.items += 1;
        Ok(())
    }

    /// What has come so far is shown.
    pub(crate) fn end_of_page(&mut self) -> Result<()> {
        self.print_rows()?;
        if let Some(writer) = &mut self.csv {
            writer.flush()?;
        }
        std::io::stdout().flush().context("cannot write to stdout")
    }

    /// The end of the list; an empty one says so on stderr.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.end_of_page()?;
        if self.format == Format::Json {
            println!("{}]", if self.items == 0 { "[" } else { "" });
        }
        if self.items == 0 && self.format == Format::Table {
            eprintln!("nothing to show");
        }
        Ok(())
    }

    fn print_rows(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let shown: Vec<(usize, &Column)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(at, column)| {
                // Of an item with decimals, nothing is 0.00.
                let nothing = |cell: &String| cell.chars().all(|c| matches!(c, '0' | '.'));
                let empty = |row: &Vec<String>| row.get(*at).is_none_or(nothing);
                !(column.csv_only || column.spare && rows.iter().all(empty))
            })
            .collect();
        let mut table = new_table();
        table.set_header(shown.iter().map(|(_, column)| Cell::new(column.title)));
        for row in &rows {
            table.add_row(
                shown
                    .iter()
                    .map(|(at, _)| row.get(*at).cloned().unwrap_or_default()),
            );
        }
        for (place, (_, column)) in shown.iter().enumerate() {
            if column.number {
                align_right(&mut table, place);
            }
        }
        writeln!(std::io::stdout().lock(), "{}", table.trim_fmt()).context("cannot write to stdout")
    }
}

/// Every figure with the way to it, as `kinds.shipments.lines`; numbers as machines read them.
fn flatten(path: &str, value: &Value, figures: &mut Vec<(String, String)>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(&below(name), member, figures);
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                flatten(&below(&place.to_string()), item, figures);
            }
        }
        other => figures.push((path.to_owned(), plain(other))),
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn align_right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// A whole number with its thousands set apart, for people.
pub(crate) fn thousands(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut said = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        said.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            said.push(',');
        }
        said.push(digit);
    }
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_of_a_reservation_reads_as_a_sentence() {
        let lines = json!([
            {"sku": "A", "granted": 2, "location": "shop", "reserved": 2, "shipped": 0},
            {"sku": "B", "requested": 1, "available": 0},
            {"sku": "C", "requested": 3, "granted": 1, "reserved": 1},
            {"sku": "D", "requested": "2.50", "granted": "6.00", "shipped": "2.50"},
            {"sku": "E", "expected": 3, "on_hand": 4},
        ]);
        assert_eq!(
            plain(&lines),
            "2 x A at shop, reserved 2; 1 x B, available 0; 1 of 3 x C, reserved 1; 2.50 x D, \
             shipped 2.50; 3 x E, on hand 4"
        );
        assert_eq!(
            plain(&json!({"on_hand": -2, "available": -2})),
            "available -2, on_hand -2"
        );
    }

    #[test]
    fn a_column_takes_the_first_place_that_is_there() {
        let column = text("on_hand", &["/balance/on_hand", "/level/on_hand"]);
        assert_eq!(column.value(&json!({"level": {"on_hand": 4}})), "4");
        assert_eq!(column.value(&json!({})), "");
    }

    #[test]
    fn figures_are_flattened_with_the_way_to_them() {
        let mut figures = Vec::new();
        let facts = json!({"lines": 1200, "kinds": {"moves": {"units": "1.5"}}, "files": ["a"]});
        flatten("", &facts, &mut figures);
        let figures: Vec<(&str, &str)> = figures
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            figures,
            [
                ("files.0", "a"),
                ("kinds.moves.units", "1.5"),
                ("lines", "1200")
            ]
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-3_268_146, "-3,268,146"),
            (-12, "-12"),
        ];
        for (number, said) in cases {
            assert_eq!(thousands(number), said);
        }
    }
}
