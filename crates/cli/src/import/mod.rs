//! `onhand import`: files of stock facts into a node.
//!
//! ```text
//!  file ─► input ─► convert_csv (mapping, rules) ─► sink ─► send ─► POST /v1/commands
//!  (gzip)        └─► convert_ndjson               ┘    └─► quarantine file
//!          one thread                                    one thread, one connection
//! ```
//!
//! Every line is named by its file and its number, so a file may be sent again at any time:
//! what the node has already is `duplicate` and changes nothing. Memory stays flat: pieces ahead
//! of the connection and one request's lines are all that is held.

mod convert_csv;
mod convert_ndjson;
mod decimal;
mod input;
mod mapping;
mod quarantine;
mod rules;
mod send;
mod sink;
mod tally;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::input::Input;
use self::mapping::Mapping;
use self::quarantine::Quarantine;
use self::send::{Sender, Sent};
use self::sink::{PIECES_AHEAD, SenderGone, Sink};
use self::tally::Tally;
use crate::client::Client;
use crate::command::block_on;
use crate::output::{Output, thousands};
use crate::stop;

/// The mapping that `--format online-retail` means.
const ONLINE_RETAIL: &str = include_str!("../../mappings/online-retail.toml");

#[derive(Debug, Args)]
#[command(after_long_help = concat!(
    "Examples:",
    "\n  onhand import sales.csv.gz --format online-retail",
    "\n  onhand import stock.csv --format csv --map stock.toml --location london",
    "\n  zcat facts.ndjson.gz | onhand import - --format ndjson --source-name facts.ndjson",
    "\n\nLines that are no facts are kept aside, and the rest is sent: exit code 0. It is 1 where the node \
     did not take a line that was sent, or where every line was kept aside.",
    "\n\nA mapping file says how a line of CSV becomes a command. This one is shipped as \
     --format online-retail:\n\n",
    include_str!("../../mappings/online-retail.toml")
))]
pub(crate) struct ImportArgs {
    /// Files to send, plain or gzip; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// What the files hold
    #[arg(long, env = "ONHAND_FORMAT", value_enum)]
    format: InputFormat,
    /// How a line of CSV becomes a command (with --format csv)
    #[arg(
        long,
        env = "ONHAND_MAP",
        value_name = "FILE",
        required_if_eq("format", "csv")
    )]
    map: Option<PathBuf>,
    /// The location of lines that name none (csv, online-retail)
    #[arg(
        long,
        env = "ONHAND_LOCATION",
        default_value = "main",
        value_name = "LOCATION"
    )]
    location: String,
    /// What the input is called, in place of the file's base name; needed for -
    #[arg(long, env = "ONHAND_SOURCE_NAME", value_name = "NAME")]
    source_name: Option<String>,
    /// Where lines that were not taken are kept, with their reasons [default: NAME.quarantine.csv]
    #[arg(long, env = "ONHAND_QUARANTINE", value_name = "FILE")]
    quarantine: Option<PathBuf>,
    /// How long to go on trying when the node cannot be reached, in seconds
    #[arg(long, env = "ONHAND_RETRY_FOR", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    retry_for: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// One command a line, as JSON
    Ndjson,
    /// Comma-separated or the like, by a mapping file
    Csv,
    /// A wholesaler's invoice lines: csv with the mapping shown below
    OnlineRetail,
}

/// What came of one file.
struct Imported {
    tally: Tally,
    sent: Sent,
    /// Why reading stopped before the end, after which what had been read was still sent.
    stopped: Option<anyhow::Error>,
}

pub(crate) fn run(args: &ImportArgs, client: &Client, out: &Output) -> Result<()> {
    let name = args.source_name.as_deref();
    let inputs: Vec<Input> = args
        .files
        .iter()
        .map(|path| Input::new(path, name))
        .collect::<Result<_>>()?;
    distinct(&inputs)?;
    let mapping = match (args.format, &args.map) {
        (InputFormat::OnlineRetail, None) => Some(Mapping::parse(ONLINE_RETAIL, "online-retail")?),
        (InputFormat::Csv, Some(path)) => Some(Mapping::open(path)?),
        (InputFormat::Csv, None) => {
            return Err(stop::usage(
                "--format csv needs a mapping file; add --map FILE",
            ));
        }
        (InputFormat::Ndjson, None) => None,
        (_, Some(_)) => {
            return Err(stop::usage(
                "--map goes with --format csv only; leave one of them out",
            ));
        }
    };
    let mut shared = args.quarantine.clone().map(Quarantine::new);
    let began = Instant::now();
    let mut all = Imported {
        tally: Tally::default(),
        sent: Sent::default(),
        stopped: None,
    };
    let mut kept: Vec<(PathBuf, u64)> = Vec::new();
    for input in &inputs {
        let mut own = None;
        let quarantine = match &mut shared {
            Some(shared) => {
                if inputs.len() > 1 {
                    shared.set_prefix(&input.name);
                }
                &*shared
            }
            None => own.insert(Quarantine::new(PathBuf::from(format!(
                "{}.quarantine.csv",
                input.name.replace(['/', '\\'], "_")
            )))),
        };
        let imported = import(args, input, mapping.as_ref(), client, quarantine)
            .with_context(|| input.path.clone());
        let finished = quarantine.finish()?;
        if own.is_some() {
            kept.extend(finished);
        }
        all.add(imported?);
        if all.stopped.is_some() {
            break;
        }
    }
    if let Some(shared) = &shared {
        kept.extend(shared.finish()?);
    }
    let seconds = began.elapsed().as_secs_f64();
    report(&all, &inputs, &kept, seconds, out)?;
    if let Some(error) = all.stopped {
        return Err(error);
    }
    if all.sent.problems > 0 {
        return Err(stop::refused(format!(
            "{} lines were not taken by the node; the quarantine file says why",
            thousands(all.sent.problems)
        )));
    }
    let (lines, aside) = (all.tally.lines(), all.tally.quarantined);
    if lines > 0 && aside == lines {
        return Err(stop::refused(format!(
            "{} of {} lines were kept aside, so nothing was sent; the quarantine file says why",
            thousands(aside),
            thousands(lines)
        )));
    }
    Ok(())
}

impl Imported {
    fn add(&mut self, other: Imported) {
        self.tally.add(&other.tally);
        for (name, count) in other.sent.totals {
            *self.sent.totals.entry(name).or_default() += count;
        }
        self.sent.problems += other.sent.problems;
        self.sent.again += other.sent.again;
        self.stopped = other.stopped;
    }
}

/// Two files of one name would be taken for one file sent twice.
fn distinct(inputs: &[Input]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for input in inputs {
        if let Some(first) = seen.insert(&input.name, &input.path) {
            return Err(stop::usage(format!(
                "{first} and {} are both called {:?}, so the second would be taken for a repeat \
                 of the first; import them one by one with --source-name",
                input.path, input.name
            )));
        }
    }
    Ok(())
}

/// Converts and sends one file: one thread reads and converts, this one talks to the node.
fn import(
    args: &ImportArgs,
    input: &Input,
    mapping: Option<&Mapping>,
    client: &Client,
    quarantine: &Quarantine,
) -> Result<Imported> {
    let progress = progress_bar(input.size());
    let reader = input.open(progress.clone())?;
    let source = input.source();
    let (sender, mut receiver) = mpsc::channel(PIECES_AHEAD);
    let sink_progress = progress.clone();
    let (converted, sent) = std::thread::scope(|scope| {
        let converting = scope.spawn(move || {
            let mut sink = Sink::new(sender, quarantine, sink_progress);
            let read = match mapping {
                Some(mapping) => convert_csv::convert(
                    reader,
                    &input.path,
                    mapping,
                    &source,
                    &args.location,
                    &mut sink,
                ),
                None => convert_ndjson::convert(reader, &input.path, &source, &mut sink),
            };
            // What was read before a fault is sent all the same: they are facts.
            let read = read.and(sink.flush());
            (sink.tally, read)
        });
        let sending = Sender {
            client,
            quarantine,
            progress: &progress,
            retry_for: Duration::from_secs(args.retry_for),
        };
        let sent = block_on(async {
            let sent = sending.send_all(&mut receiver).await;
            // Lets go of the converter, which may be waiting for room.
            receiver.close();
            while receiver.try_recv().is_ok() {}
            sent
        });
        (converting.join(), sent)
    });
    progress.finish_and_clear();
    let (tally, read) = converted.expect("a panic while converting has been printed already");
    let sent = sent??;
    let stopped = match read {
        Err(error) if !error.is::<SenderGone>() => Some(error),
        _ => None,
    };
    Ok(Imported {
        tally,
        sent,
        stopped,
    })
}

/// On stderr, and only on a terminal.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => {
            let template = "{bar:24} {bytes}/{total_bytes}  {msg}  {eta} left";
            (ProgressBar::new(size), template)
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is well formed"));
    bar
}

fn report(
    all: &Imported,
    inputs: &[Input],
    kept: &[(PathBuf, u64)],
    seconds: f64,
    out: &Output,
) -> Result<()> {
    let commands = all.tally.commands();
    let sent = &all.sent;
    let total = |name: &str| sent.totals.get(name).copied().unwrap_or_default();
    let applied = total("applied") + total("granted");
    let duplicates = total("duplicate");
    // Whole lines a second are exact enough for a rate.
    let rate = format!("{:.0}", all.tally.lines() as f64 / seconds.max(1e-9));

    let mut rows = all.tally.rows();
    rows.push(("applied".to_owned(), thousands(applied)));
    rows.push((
        "duplicates (known already)".to_owned(),
        thousands(duplicates),
    ));
    rows.push(("not taken by the node".to_owned(), thousands(sent.problems)));
    if sent.again > 0 {
        rows.push(("sent again".to_owned(), thousands(sent.again)));
    }
    rows.push(("seconds".to_owned(), format!("{seconds:.2}")));
    rows.push((
        "lines a second".to_owned(),
        thousands(rate.parse::<i128>().unwrap_or_default()),
    ));

    let mut facts = all.tally.json();
    let files: Vec<&str> = inputs.iter().map(|input| input.path.as_str()).collect();
    let more = json!({
        "files": files,
        "commands": commands,
        "totals": sent.totals,
        "applied": applied,
        "duplicates": duplicates,
        "problems": sent.problems,
        "sent_again": sent.again,
        "quarantine_files": kept.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        "seconds": seconds,
        "lines_per_s": rate.parse::<u64>().unwrap_or_default(),
    });
    if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
        facts.extend(more);
    }
    out.summary(&rows, &facts)?;

    for (path, lines) in kept {
        eprintln!(
            "{} lines were kept aside, with reasons, in {}",
            thousands(*lines),
            path.display()
        );
    }
    if commands > 0 && duplicates == commands && sent.again == 0 {
        eprintln!(
            "nothing changed: the node had every line already, by the name of the file and the \
             line; if this is another file of the same name, give it its own with --source-name"
        );
    }
    Ok(())
}
