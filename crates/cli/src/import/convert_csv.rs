//! CSV to commands by a mapping, on one thread, without allocating per line.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use csv::{ByteRecord, ReaderBuilder};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::decimal::Decimal;
use super::mapping::{Case, Mapping, Sign, TimeMapping};
use super::rules::{Fields, Rule, Then};
use super::sink::Sink;
use crate::json_line::{push_escaped, push_number, push_string};
use crate::stop;

/// The longest line: beyond it there is an unclosed quote, not a line.
const RECORD_BYTES_MAX: u64 = 16 << 20;
/// What the CSV reader takes at once.
const READ_BYTES: usize = 256 << 10;

/// Reads the input to its end and puts its commands into the sink.
///
/// # Errors
/// Usage, where the mapping does not fit the file or the file cannot be read on; otherwise what
/// the sink says. What was converted before is in the sink.
pub(crate) fn convert(
    input: Box<dyn BufRead + Send>,
    path: &str,
    mapping: &Mapping,
    source: &str,
    location: &str,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let taken = Arc::new(AtomicU64::new(0));
    let guarded = Guarded {
        input,
        taken: Arc::clone(&taken),
    };
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(ascii(mapping.delimiter, "delimiter")?)
        .quote(ascii(mapping.quote, "quote")?)
        .buffer_capacity(READ_BYTES)
        .from_reader(guarded);
    let mut record = ByteRecord::new();
    let mut read = |record: &mut ByteRecord| -> Result<bool> {
        taken.store(0, Ordering::Relaxed);
        reader.read_byte_record(record).map_err(|error| {
            stop::usage(format!(
                "{path} cannot be read on: {error}; correct the file and import it again: what \
                 has been sent stays, and is not applied twice"
            ))
        })
    };
    if !read(&mut record)? {
        return Ok(());
    }
    let header = mapping.header.then(|| names(&record));
    let width = record.len();
    let plan = Plan::new(mapping, header.as_deref(), width, path, source, location)?;
    let mut writer = LineWriter::new(plan);
    let mut more = if mapping.header {
        read(&mut record)?
    } else {
        true
    };
    while more {
        let line = record.position().map_or(0, csv::Position::line);
        writer.convert(&record, line, sink)?;
        more = read(&mut record)?;
    }
    Ok(())
}

fn ascii(character: char, what: &str) -> Result<u8> {
    u8::try_from(character)
        .ok()
        .filter(u8::is_ascii)
        .ok_or_else(|| {
            stop::usage(format!(
                "the mapping's {what} {character:?} must be one ASCII character"
            ))
        })
}

/// The header's names, without the mark that some programs put before the first.
fn names(record: &ByteRecord) -> Vec<String> {
    let name = |field: &[u8]| String::from_utf8_lossy(field.trim_ascii()).into_owned();
    let mut names: Vec<String> = record.iter().map(name).collect();
    if let Some(first) = names.first_mut()
        && let Some(rest) = first.strip_prefix('\u{feff}')
    {
        *first = rest.to_owned();
    }
    names
}

/// Stops a reader that would gather a whole file as one line.
struct Guarded {
    input: Box<dyn BufRead + Send>,
    /// Bytes handed out since the last line ended.
    taken: Arc<AtomicU64>,
}

impl Read for Guarded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        let taken = u64::try_from(read).unwrap_or_default();
        if self.taken.fetch_add(taken, Ordering::Relaxed) > RECORD_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a line above {RECORD_BYTES_MAX} bytes; there is an unclosed quote before this"
            )));
        }
        Ok(read)
    }
}

/// A mapping resolved against a file's columns.
struct Plan {
    width: usize,
    trim: bool,
    case: Case,
    sku: usize,
    quantity: usize,
    location: Option<usize>,
    default_location: Vec<u8>,
    time: Option<(usize, TimeReader)>,
    rules: Vec<Rule>,
    /// For each rule that makes commands: `,"source":...,"type":...` up to the opening quote of
    /// the SKU; for the others empty.
    heads: Vec<Vec<u8>>,
}

impl Plan {
    fn new(
        mapping: &Mapping,
        header: Option<&[String]>,
        width: usize,
        path: &str,
        source: &str,
        location: &str,
    ) -> Result<Plan> {
        let find = |name: &str| find_column(name, header, width, path);
        let rules = mapping
            .rules
            .iter()
            .map(|rule| Rule::compile(rule, &find))
            .collect::<Result<_>>()?;
        let heads = |rules: &[Rule]| rules.iter().map(|rule| head(rule, source)).collect();
        let rules: Vec<Rule> = rules;
        Ok(Plan {
            width,
            trim: mapping.trim,
            case: mapping.sku.case,
            sku: find(&mapping.sku.column)?,
            quantity: find(&mapping.quantity.column)?,
            location: mapping
                .location
                .as_ref()
                .map(|l| find(&l.column))
                .transpose()?,
            default_location: location.as_bytes().to_vec(),
            time: mapping
                .time
                .as_ref()
                .map(|time| Ok::<_, anyhow::Error>((find(&time.column)?, TimeReader::new(time)?)))
                .transpose()?,
            heads: heads(&rules),
            rules,
        })
    }
}

/// What all commands of a rule have in common.
fn head(rule: &Rule, source: &str) -> Vec<u8> {
    let Then::Command(command) = &rule.then else {
        return Vec::new();
    };
    let mut head = Vec::new();
    let mut member = |name: &str, value: &str| {
        head.push(b',');
        push_string(&mut head, name.as_bytes());
        head.push(b':');
        push_string(&mut head, value.as_bytes());
    };
    member("source", source);
    member("type", command.name);
    if let Some(reason) = &command.reason {
        member("reason", reason);
    }
    if let Some(state) = &command.state {
        member("state", state);
    }
    head.extend_from_slice(b",\"sku\":\"");
    head
}

/// A column's place by its name, or by its number from 1 where there is no header.
fn find_column(name: &str, header: Option<&[String]>, width: usize, path: &str) -> Result<usize> {
    let Some(names) = header else {
        let place = name
            .parse::<usize>()
            .ok()
            .filter(|n| (1..=width).contains(n));
        return place.map(|n| n - 1).ok_or_else(|| {
            stop::usage(format!(
                "{path} has no header and {width} columns: the mapping must name them \"1\" to \
                 \"{width}\", not {name:?}"
            ))
        });
    };
    let mut places = names
        .iter()
        .enumerate()
        .filter(|(_, column)| *column == name);
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => Err(stop::usage(format!(
            "{path} has more than one column {name:?}; rename one of them"
        ))),
        (None, _) => Err(stop::usage(format!(
            "{path} has no column {name:?}; it has {}; correct the mapping, or give the right one \
             with --map",
            names.join(", ")
        ))),
    }
}

/// Turns a file's times into RFC 3339 in UTC. Files come in time order, so the last answer is
/// kept: most lines repeat it.
struct TimeReader {
    format: String,
    zone: Option<TimeZone>,
    last_in: Vec<u8>,
    last_out: String,
}

impl TimeReader {
    fn new(mapping: &TimeMapping) -> Result<TimeReader> {
        let zone = match &mapping.zone {
            Some(name) => Some(TimeZone::get(name).map_err(|error| {
                stop::usage(format!(
                    "the mapping's zone {name:?} is not known: {error}; write an IANA name such \
                     as Europe/London"
                ))
            })?),
            None => None,
        };
        let has_offset =
            mapping.format == "rfc3339" || mapping.format.contains("%z") || mapping.format == "%s";
        if zone.is_none() && !has_offset {
            return Err(stop::usage(format!(
                "the mapping's time format {:?} has no offset, so it needs a zone; add zone = \
                 \"UTC\" or the like",
                mapping.format
            )));
        }
        let format = mapping.format.clone();
        Ok(TimeReader {
            format,
            zone,
            last_in: Vec::new(),
            last_out: String::new(),
        })
    }

    /// The time in UTC, or why there is none.
    fn read(&mut self, field: &[u8]) -> Result<&str, String> {
        if self.last_out.is_empty() || self.last_in != field {
            let text = std::str::from_utf8(field).map_err(|_| "the time is no UTF-8".to_owned())?;
            let timestamp = self.parse(text).map_err(|error| {
                format!("time {text:?} does not read as {:?}: {error}", self.format)
            })?;
            self.last_out = timestamp.to_string();
            self.last_in.clear();
            self.last_in.extend_from_slice(field);
        }
        Ok(&self.last_out)
    }

    /// A local time that a clock change skips or repeats is taken as jiff's "compatible" rule
    /// says: later by the gap, or the first of the two.
    fn parse(&self, text: &str) -> Result<Timestamp, jiff::Error> {
        match (&self.zone, self.format.as_str()) {
            (_, "rfc3339") => text.parse(),
            (Some(zone), format) => {
                let local = DateTime::strptime(format, text)?;
                Ok(zone.to_ambiguous_timestamp(local).compatible()?)
            }
            (None, format) => Timestamp::strptime(format, text),
        }
    }
}

/// One record as the rules see it.
struct Row<'r> {
    record: &'r ByteRecord,
    trim: bool,
}

impl Fields for Row<'_> {
    fn field(&self, column: usize) -> &[u8] {
        let field = self.record.get(column).unwrap_or_default();
        if self.trim { field.trim_ascii() } else { field }
    }
}

/// Writes the command of each record; holds what lines share.
struct LineWriter {
    plan: Plan,
    scratch: Vec<u8>,
}

impl LineWriter {
    fn new(plan: Plan) -> LineWriter {
        LineWriter {
            plan,
            scratch: Vec::new(),
        }
    }

    fn convert(&mut self, record: &ByteRecord, line: u64, sink: &mut Sink<'_>) -> Result<()> {
        let length_before = sink.out.len();
        let row = Row {
            record,
            trim: self.plan.trim,
        };
        match write_command(&mut self.plan, &mut self.scratch, &row, line, &mut sink.out) {
            Ok((rule, quantity)) => {
                let kind = match self.plan.rules.get(rule).map(|rule| &rule.then) {
                    Some(Then::Command(command)) => command.kind(quantity),
                    _ => anyhow::bail!("a line became a command by a rule that makes none"),
                };
                sink.command(line, kind, quantity)
            }
            Err(reason) => {
                sink.out.truncate(length_before);
                sink.quarantine(&reason, line, record.iter())
                    .with_context(|| format!("line {line}"))
            }
        }
    }
}

/// Appends the command, or says why the line is none. What was appended before is left there.
fn write_command(
    plan: &mut Plan,
    scratch: &mut Vec<u8>,
    row: &Row<'_>,
    line: u64,
    out: &mut Vec<u8>,
) -> Result<(usize, Decimal), Vec<u8>> {
    if row.record.len() != plan.width {
        let (has, needs) = (row.record.len(), plan.width);
        return Err(format!("the line has {has} fields in place of {needs}").into_bytes());
    }
    if std::str::from_utf8(row.record.as_slice()).is_err() {
        return Err(b"the line is no UTF-8".to_vec());
    }
    let found = plan
        .rules
        .iter()
        .enumerate()
        .find(|(_, rule)| rule.holds(row));
    let Some((place, rule)) = found else {
        return Err(b"no rule of the mapping holds".to_vec());
    };
    let command = match &rule.then {
        Then::Command(command) => command,
        Then::Quarantine(reason) => {
            let mut said = Vec::new();
            reason.render(row, &mut said);
            return Err(said);
        }
    };
    let quantity_field = row.field(plan.quantity);
    let quantity = Decimal::parse(quantity_field).ok_or_else(|| {
        let text = String::from_utf8_lossy(quantity_field);
        format!("quantity {text:?} is no number of at most 9 decimals").into_bytes()
    })?;
    let quantity = match command.sign {
        Sign::AsIs => quantity,
        Sign::Negated => quantity.negated(),
        Sign::Absolute => quantity.absolute(),
    };

    out.extend_from_slice(b"{\"id\":\"");
    push_number(out, line);
    out.extend_from_slice(b"\",\"seq\":");
    push_number(out, line);
    out.extend_from_slice(plan.heads.get(place).map(Vec::as_slice).unwrap_or_default());
    push_sku(out, scratch, row.field(plan.sku), plan.case);
    out.extend_from_slice(b"\",\"location\":");
    let location = plan
        .location
        .map(|column| row.field(column))
        .filter(|f| !f.is_empty());
    push_string(out, location.unwrap_or(&plan.default_location));
    out.extend_from_slice(b",\"quantity\":");
    push_quantity(out, quantity);
    if let Some((column, reader)) = &mut plan.time {
        let time = reader
            .read(row.field(*column))
            .map_err(String::into_bytes)?;
        out.extend_from_slice(b",\"occurred_at\":\"");
        out.extend_from_slice(time.as_bytes());
        out.push(b'"');
    }
    for (name, template) in [("note", &command.note), ("reference", &command.reference)] {
        if let Some(template) = template {
            scratch.clear();
            template.render(row, scratch);
            if !scratch.is_empty() {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                push_string(out, scratch);
            }
        }
    }
    out.extend_from_slice(b"}\n");
    Ok((place, quantity))
}

fn push_sku(out: &mut Vec<u8>, scratch: &mut Vec<u8>, sku: &[u8], case: Case) {
    if case == Case::Keep {
        push_escaped(out, sku);
        return;
    }
    scratch.clear();
    if sku.is_ascii() {
        scratch.extend_from_slice(sku);
        match case {
            Case::Upper => scratch.make_ascii_uppercase(),
            Case::Lower => scratch.make_ascii_lowercase(),
            Case::Keep => {}
        }
    } else {
        let text = String::from_utf8_lossy(sku);
        let text = if case == Case::Upper {
            text.to_uppercase()
        } else {
            text.to_lowercase()
        };
        scratch.extend_from_slice(text.as_bytes());
    }
    push_escaped(out, scratch);
}

/// An integer stands as it is; a decimal is a string, so that nobody reads it as a float.
fn push_quantity(out: &mut Vec<u8>, quantity: Decimal) {
    if !quantity.is_whole() {
        push_string(out, quantity.to_string().as_bytes());
        return;
    }
    let whole = quantity.whole();
    if whole < 0 {
        out.push(b'-');
    }
    match u64::try_from(whole.unsigned_abs()) {
        Ok(whole) => push_number(out, whole),
        Err(_) => out.extend_from_slice(whole.unsigned_abs().to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use indicatif::ProgressBar;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::import::quarantine::Quarantine;
    use crate::import::tally::Tally;

    /// What a conversion gave: the commands, the counts, and the quarantine file's text.
    pub(crate) struct Converted {
        pub(crate) commands: Vec<Value>,
        pub(crate) tally: Tally,
        pub(crate) quarantined: String,
        pub(crate) result: Result<()>,
    }

    fn run(text: &str, mapping: &str) -> Converted {
        let mapping = Mapping::parse(mapping, "test").expect("a good mapping");
        let dir = tempfile::tempdir().expect("a directory");
        let path: PathBuf = dir.path().join("q.csv");
        let quarantine = Quarantine::new(path.clone());
        let (sender, mut receiver) = mpsc::channel(64);
        let mut sink = Sink::new(sender, &quarantine, ProgressBar::hidden());
        let input = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        let result = convert(
            input,
            "test.csv",
            &mapping,
            "file/test.csv",
            "main",
            &mut sink,
        );
        sink.flush().expect("room for all");
        let tally = sink.tally.clone();
        drop(sink);
        quarantine.finish().expect("written");
        let mut commands = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            for line in piece
                .bytes
                .split(|&b| b == b'\n')
                .filter(|line| !line.is_empty())
            {
                commands.push(serde_json::from_slice(line).expect("each line is JSON"));
            }
        }
        let quarantined = std::fs::read_to_string(&path).unwrap_or_default();
        Converted {
            commands,
            tally,
            quarantined,
            result,
        }
    }

    const RETAIL: &str = include_str!("../../mappings/online-retail.toml");
    const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    #[test]
    fn each_rule_of_the_wholesaler_makes_its_command() {
        let text = format!(
            "{HEADER}\
             1001,10001a,\"LAMP, RED\",6,2010-12-01 08:26:00,2.55,17850.0,Somewhere\n\
             1002,POST,POSTAGE,1,2010-12-01 08:26:00,18.0,17850.0,Somewhere\n\
             C1003, 10001A ,LAMP,-2,2011-07-01 09:00:00,2.55,17850.0,Somewhere\n\
             1004,10002,\"said \"\"gone\"\"\",-5,2011-07-01 09:00:00,0.0,,Somewhere\n\
             1005,10002,,3,2011-07-01 09:00:00,0.0,,Somewhere\n\
             1006,10002,,3,2011-07-01 09:00:00,0.0,17850.0,Somewhere\n"
        );
        let converted = run(&text, RETAIL);
        converted.result.expect("all lines were read");
        let base = |line: u64, kind: &str, sku: &str, quantity: i64, at: &str, invoice: &str| {
            json!({
                "id": line.to_string(), "seq": line, "source": "file/test.csv", "type": kind,
                "sku": sku, "location": "main", "quantity": quantity, "occurred_at": at,
                "reference": format!("invoice/{invoice}"),
            })
        };
        let with = |mut command: Value, name: &str, value: &str| {
            command[name] = json!(value);
            command
        };
        let summer = "2011-07-01T08:00:00Z";
        let sale = base(2, "ship", "10001A", 6, "2010-12-01T08:26:00Z", "1001");
        let lost = base(5, "adjust", "10002", -5, summer, "1004");
        let sold = base(7, "ship", "10002", 3, summer, "1006");
        let expected = vec![
            with(sale, "reason", "sale"),
            base(4, "return", "10001A", 2, summer, "C1003"),
            with(with(lost, "reason", "other"), "note", "said \"gone\""),
            with(
                base(6, "adjust", "10002", 3, summer, "1005"),
                "reason",
                "other",
            ),
            with(sold, "reason", "sale"),
        ];
        assert_eq!(converted.commands, expected);
        assert_eq!(converted.tally.quarantined, 1);
        assert!(
            converted
                .quarantined
                .contains("stock code POST is no article")
                && converted.quarantined.contains(",3,1002,POST,POSTAGE,1,"),
            "{}",
            converted.quarantined
        );
    }

    const SHOP: &str = "delimiter = ';'\nheader = false\n[sku]\ncolumn = '1'\n[quantity]\n\
        column = '2'\n[location]\ncolumn = '3'\n[[rules]]\ntype = 'receive'\nstate = 'damaged'\n\
        quantity = 'absolute'\n";

    #[test]
    fn a_generic_file_needs_no_header_and_may_name_locations() {
        let converted = run(
            "a;-1.50;north\nB;2.0;\nC;x;north\nD;1\n\"e\n2\";7;\"a;b\"\n",
            SHOP,
        );
        converted.result.expect("all lines were read");
        let command = |line: u64, sku: &str, quantity: Value, location: &str| {
            json!({
                "id": line.to_string(), "seq": line, "source": "file/test.csv",
                "type": "receive", "state": "damaged", "sku": sku, "location": location,
                "quantity": quantity,
            })
        };
        let expected = vec![
            command(1, "a", json!("1.5"), "north"),
            command(2, "B", json!(2), "main"),
            command(5, "e\n2", json!(7), "a;b"),
        ];
        assert_eq!(converted.commands, expected);
        assert_eq!(converted.tally.quarantined, 2);
        assert!(
            converted.quarantined.contains("no number"),
            "{}",
            converted.quarantined
        );
        assert!(converted.quarantined.contains("2 fields in place of 3"));
    }

    #[test]
    fn times_are_read_in_their_zone_or_quarantined() {
        let mapping = "[sku]\ncolumn = 'S'\n[quantity]\ncolumn = 'Q'\n[time]\ncolumn = 'T'\n\
            format = '%d.%m.%Y %H:%M'\nzone = 'Europe/Berlin'\n[[rules]]\ntype = 'ship'\n";
        let text = "S,Q,T\nA,1,01.07.2011 12:00\nA,1,31.10.2010 02:30\nA,1,2011-07-01\n";
        let converted = run(text, mapping);
        converted.result.expect("all lines were read");
        let times: Vec<&str> = converted
            .commands
            .iter()
            .filter_map(|c| c["occurred_at"].as_str())
            .collect();
        assert_eq!(times, ["2011-07-01T10:00:00Z", "2010-10-31T00:30:00Z"]);
        assert!(
            converted.quarantined.contains("does not read as"),
            "{}",
            converted.quarantined
        );
    }

    #[test]
    fn a_mapping_that_does_not_fit_says_what_is_there() {
        let error = run("Item,Qty\nA,1\n", RETAIL)
            .result
            .expect_err("no such columns");
        assert!(error.to_string().contains("it has Item, Qty"), "{error}");
        let error = run("a;1\n", SHOP).result.expect_err("no third column");
        assert!(error.to_string().contains("\"1\" to \"2\""), "{error}");
        let zoneless = "[sku]\ncolumn = 'S'\n[quantity]\ncolumn = 'Q'\n[time]\ncolumn = 'T'\n\
            format = '%Y'\n[[rules]]\ntype = 'ship'\n";
        let error = run("S,Q,T\n", zoneless).result.expect_err("no zone");
        assert!(error.to_string().contains("needs a zone"), "{error}");
    }

    #[test]
    fn an_unclosed_quote_does_not_swallow_the_file() {
        let mut text = String::from("a;1;\"north\n");
        text.push_str(&"b;1;south\n".repeat(2_000_000));
        let converted = run(&text, SHOP);
        let error = converted
            .result
            .expect_err("no line is that long")
            .to_string();
        assert!(error.contains("unclosed quote"), "{error}");
        assert!(converted.commands.is_empty());
    }

    #[test]
    fn the_real_year_gives_the_known_counts() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/data/online-retail/sales-2010-12-to-2011-08.csv.gz"
        );
        let input = crate::import::input::Input::new(path, None).expect("named");
        if !std::path::Path::new(path).exists() {
            eprintln!("skipped: {path} is absent");
            return;
        }
        let mapping = Mapping::parse(RETAIL, "test").expect("a good mapping");
        let dir = tempfile::tempdir().expect("a directory");
        let quarantine = Quarantine::new(dir.path().join("q.csv"));
        let (sender, mut receiver) = mpsc::channel(64);
        let mut sink = Sink::new(sender, &quarantine, ProgressBar::hidden());
        let reading = input.open(ProgressBar::hidden()).expect("opened");
        let draining = std::thread::spawn(move || {
            let mut lines = 0;
            while let Some(piece) = receiver.blocking_recv() {
                lines += piece.lines;
            }
            lines
        });
        convert(reading, path, &mapping, &input.source(), "main", &mut sink).expect("read");
        sink.flush().expect("drained");
        let tally = sink.tally.clone();
        drop(sink);
        assert_eq!(draining.join().expect("drained"), 318_713);
        let facts = tally.json();
        let figure = |at: &str| facts.pointer(at).and_then(Value::as_i64);
        assert_eq!(figure("/lines"), Some(320_705));
        assert_eq!(figure("/quarantined"), Some(1_992));
        for (kind, lines, units) in [
            ("shipments", 311_502, 3_322_996),
            ("returns", 5_454, 145_217),
            ("adjustments_in", 844, 40_860),
            ("adjustments_out", 913, 131_227),
        ] {
            assert_eq!(
                figure(&format!("/kinds/{kind}/lines")),
                Some(lines),
                "{kind}"
            );
            assert_eq!(
                figure(&format!("/kinds/{kind}/units")),
                Some(units),
                "{kind}"
            );
        }
    }
}
