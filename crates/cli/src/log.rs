//! `onhand log`: the log in a data directory, read without changing or locking it.
//!
//! Meant for a stopped node or a copy. Of a running node it shows what had been written by then.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use onhand_log::journal::{JournalReader, check};
use onhand_log::{Record, Topic, TopicPartition};
use serde_json::{Map, Value, json};

use crate::copy::{self, CopyArgs, UnsealArgs};
use crate::output::{Columns, Output, thousands};
use crate::stop;

/// Bytes read from a partition at once.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// The topics, with their partitions and records
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand log topics --data /var/lib/onhand",
    ))]
    Topics(DirArgs),
    /// The records of a topic
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand log read dead-letters --data /var/lib/onhand",
        "\n  onhand log read stock.commands --data /var/lib/onhand --partition 3 --from -10",
    ))]
    Read(ReadArgs),
    /// What the log holds and how it was left
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand log stat --data /var/lib/onhand",
    ))]
    Stat(DirArgs),
    /// Check every byte, changing nothing
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand log verify --data /var/lib/onhand",
    ))]
    Verify(DirArgs),
    /// Move a stopped node's log to Kafka, or a cluster's log into a journal
    ///
    /// Every record with its key, headers and time, and every position; compared by a digest of both
    /// before the target may be served, and then the source is sealed. May be interrupted and run again.
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand log copy --to kafka --data /var/lib/onhand --kafka kafka-1:9092,kafka-2:9092",
        "\n  onhand log copy --to journal --kafka kafka-1:9092 --data /var/lib/onhand-new",
    ))]
    Copy(CopyArgs),
    /// Serve a log again that was sealed when it was copied; says what that risks
    #[command(after_help = concat!(
        "Example:",
        "\n  onhand log unseal --data /var/lib/onhand --confirm new-epoch",
    ))]
    Unseal(UnsealArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DirArgs {
    /// The data directory of the node
    #[arg(long, env = "ONHAND_DATA", value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// One of those that `onhand log topics` lists
    topic: String,
    #[command(flatten)]
    dir: DirArgs,
    /// Only this partition
    #[arg(long, env = "ONHAND_PARTITION", value_name = "N")]
    partition: Option<u16>,
    /// From this offset on; a negative one counts from the end
    #[arg(
        long,
        env = "ONHAND_FROM",
        value_name = "OFFSET",
        allow_hyphen_values = true,
        conflicts_with = "from_time"
    )]
    from: Option<i64>,
    /// From this time on (RFC 3339)
    #[arg(long, env = "ONHAND_FROM_TIME", value_name = "TIME")]
    from_time: Option<Timestamp>,
    /// Only records with this key
    #[arg(long, env = "ONHAND_KEY", value_name = "KEY")]
    key: Option<String>,
    /// Stop after N records
    #[arg(long, env = "ONHAND_LIMIT", value_name = "N")]
    limit: Option<u64>,
}

pub(crate) fn run(log: LogCommand, out: &Output) -> Result<()> {
    match log {
        LogCommand::Topics(args) => topics(&args.data, out),
        LogCommand::Read(args) => read(&args, out),
        LogCommand::Stat(args) => stat(&args.data, out),
        LogCommand::Verify(args) => verify(&args.data, out),
        LogCommand::Copy(args) => copy::run(&args, out),
        LogCommand::Unseal(args) => copy::unseal(&args),
    }
}

/// The journal in a node's data directory; a directory without one may be a copy of it alone.
pub(crate) fn journal_in(data: &Path) -> PathBuf {
    let inside = data.join("journal");
    if inside.is_dir() {
        inside
    } else {
        data.to_owned()
    }
}

fn open(dir: &Path) -> Result<JournalReader> {
    JournalReader::open(&journal_in(dir)).map_err(|error| {
        stop::usage(format!(
            "the log in {} cannot be read: {error}; name the directory that `onhand serve --data` \
             was given",
            dir.display()
        ))
    })
}

fn partitions(topic: &Topic) -> impl Iterator<Item = TopicPartition> + use<> {
    let id = topic.id;
    (0..topic.spec.partitions).map(move |partition| TopicPartition {
        topic: id,
        partition,
    })
}

fn topics(dir: &Path, out: &Output) -> Result<()> {
    let log = open(dir)?;
    let mut listing = out.listing(&Columns::Topic);
    for topic in log.topics() {
        // Offsets are dense in this engine: their span is the number of records.
        let mut records = 0;
        for at in partitions(topic) {
            let bounds = log.bounds(at).context("a topic of the log has no bounds")?;
            records += bounds.end - bounds.start;
        }
        listing.row(&json!({
            "topic": topic.spec.name,
            "partitions": topic.spec.partitions,
            "compacted": topic.spec.compacted,
            "records": records,
        }))?;
    }
    listing.finish()
}

fn read(args: &ReadArgs, out: &Output) -> Result<()> {
    let log = open(&args.dir.data)?;
    let Some(topic) = log
        .topics()
        .iter()
        .find(|topic| topic.spec.name == args.topic)
    else {
        let names: Vec<&str> = log
            .topics()
            .iter()
            .map(|topic| topic.spec.name.as_str())
            .collect();
        return Err(stop::usage(format!(
            "there is no topic {:?}; there are {}",
            args.topic,
            names.join(", ")
        )));
    };
    if let Some(partition) = args.partition
        && partition >= topic.spec.partitions
    {
        return Err(stop::usage(format!(
            "{} has partitions 0 to {}; name one of them with --partition",
            args.topic,
            topic.spec.partitions - 1
        )));
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut listing = out.listing(&Columns::Record);
    for at in partitions(topic) {
        if args.partition.is_some_and(|only| only != at.partition) {
            continue;
        }
        let bounds = log.bounds(at).context("a topic of the log has no bounds")?;
        let mut next = match (args.from, args.from_time) {
            (Some(from), _) if from < 0 => (bounds.end + from).max(bounds.start),
            (Some(from), _) => from.clamp(bounds.start, bounds.end),
            (None, Some(time)) => log
                .offset_at(at, time.as_millisecond())
                .context("the log cannot be searched by time")?
                .unwrap_or(bounds.end),
            (None, None) => bounds.start,
        };
        while next < bounds.end && left > 0 {
            let fetch = log.read(at, next, READ_BYTES).with_context(|| {
                format!(
                    "partition {} of {} cannot be read at offset {next}; run `onhand log verify`",
                    at.partition, args.topic
                )
            })?;
            for record in fetch.batches.iter().flat_map(|batch| batch.records()) {
                let wanted = args
                    .key
                    .as_ref()
                    .is_none_or(|key| record.key == Some(key.as_bytes()));
                if record.offset >= next && wanted && left > 0 {
                    listing.row(&shown(&args.topic, at.partition, &record))?;
                    left -= 1;
                }
            }
            listing.end_of_page()?;
            if fetch.next <= next {
                break;
            }
            next = fetch.next;
        }
    }
    listing.finish()
}

/// A record for people: times and texts readable, bytes that are no text as hex.
fn shown(topic: &str, partition: u16, record: &Record<'_>) -> Value {
    let mut item = Map::new();
    let mut member = |name: &str, value: Value| item.insert(name.to_owned(), value);
    member("topic", json!(topic));
    member("partition", json!(partition));
    member("offset", json!(record.offset));
    let time = Timestamp::from_millisecond(record.timestamp);
    member(
        "time",
        time.map_or_else(|_| json!(record.timestamp), |time| json!(time.to_string())),
    );
    member("key", record.key.map_or(Value::Null, readable));
    if !record.headers.is_empty() {
        let headers = record.headers.iter();
        let headers = headers.map(|h| (h.key.to_owned(), h.value.map_or(Value::Null, readable)));
        member("headers", Value::Object(headers.collect()));
    }
    member("bytes", json!(record.value.map_or(0, <[u8]>::len)));
    member("value", record.value.map_or(Value::Null, readable));
    Value::Object(item)
}

fn readable(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            match serde_json::from_str::<Value>(text) {
                Ok(value @ Value::Object(_)) => value,
                _ => json!(text),
            }
        }
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

fn stat(dir: &Path, out: &Output) -> Result<()> {
    let log = open(dir)?;
    let report = log.recovery();
    let mut records = 0i64;
    for at in log.topics().iter().flat_map(partitions) {
        let bounds = log.bounds(at).context("a topic of the log has no bounds")?;
        records += bounds.end - bounds.start;
    }
    let mut bytes = 0;
    let files = journal_in(dir);
    for entry in
        std::fs::read_dir(&files).with_context(|| format!("cannot list {}", files.display()))?
    {
        let metadata = entry.and_then(|entry| entry.metadata());
        bytes += metadata
            .with_context(|| format!("cannot list {}", dir.display()))?
            .len();
    }
    let newest = Timestamp::from_millisecond(log.time()).map(|time| time.to_string());
    let newest = newest.unwrap_or_else(|_| log.time().to_string());
    let row = |name: &str, value: String| (name.to_owned(), value);
    let rows = [
        row("epoch", log.epoch().to_string()),
        row("standing", log.glimpse().standing.words()),
        row("topics", log.topics().len().to_string()),
        row("records", thousands(records)),
        row("segments", thousands(report.segments)),
        row("bytes of files", thousands(bytes)),
        row("newest time", newest.clone()),
        row(
            "ended cleanly",
            if report.sealed { "yes" } else { "no" }.to_owned(),
        ),
        row("bytes of an unfinished end", thousands(report.cut_bytes)),
    ];
    let facts = json!({
        "epoch": log.epoch(),
        "standing": log.glimpse().standing.words(),
        "topics": log.topics().len(),
        "records": records,
        "segments": report.segments,
        "file_bytes": bytes,
        "newest_time": newest,
        "sealed": report.sealed,
        "unfinished_bytes": report.cut_bytes,
        "owners": log.owners().map(|(name, generation)| json!({
            "name": name, "generation": generation,
        })).collect::<Vec<_>>(),
    });
    out.summary(&rows, &facts)
}

fn verify(dir: &Path, out: &Output) -> Result<()> {
    let report = check(&journal_in(dir)).map_err(|error| stop::usage(error.to_string()))?;
    let row = |name: &str, value: String| (name.to_owned(), value);
    let mut rows = vec![
        row("segments", thousands(report.segments)),
        row("frames", thousands(report.frames)),
    ];
    for (topic, records) in &report.records {
        rows.push((format!("records of {topic}"), thousands(*records)));
    }
    rows.push(row(
        "ended cleanly",
        if report.sealed { "yes" } else { "no" }.to_owned(),
    ));
    rows.push(row(
        "bytes of an unfinished end",
        thousands(report.tail_bytes),
    ));
    rows.push(row("damaged places", report.damage.len().to_string()));
    let damage: Vec<Value> = report
        .damage
        .iter()
        .map(|d| json!({"segment": d.segment, "position": d.position, "what": d.what}))
        .collect();
    let facts = json!({
        "segments": report.segments,
        "frames": report.frames,
        "records": report.records,
        "sealed": report.sealed,
        "unfinished_bytes": report.tail_bytes,
        "damage": damage,
        "ok": report.is_good(),
    });
    out.summary(&rows, &facts)?;
    for d in &report.damage {
        eprintln!(
            "{} is damaged at byte {}: {}",
            d.segment, d.position, d.what
        );
    }
    if report.is_good() {
        return Ok(());
    }
    Err(stop::refused(format!(
        "{} places of the log are not as they were written; restore {} from a copy",
        report.damage.len(),
        dir.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_what_they_are() {
        assert_eq!(readable(b"till-7"), json!("till-7"));
        assert_eq!(readable(br#"{"a":1}"#), json!({"a": 1}));
        assert_eq!(readable(&[0, 0xff]), json!({"hex": "00ff"}));
    }

    #[test]
    fn a_directory_without_a_log_is_wrong_usage() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = open(dir.path()).expect_err("it is empty");
        assert!(
            matches!(error.downcast_ref(), Some(stop::Stop::Usage(_))),
            "{error}"
        );
        assert!(error.to_string().contains("serve --data"), "{error}");
    }
}
