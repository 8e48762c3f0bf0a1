//! `onhand log copy` and `onhand log unseal`: a stopped node's log onto another engine, and what undoes
//! the end of it.
//!
//! ```text
//!  look at both ─► open ─► fill the target ─► open it anew and read it back ─► equal?
//!    ─► the source is still as it was ─► the source is sealed ─► the target may be served
//! ```
//!
//! Nothing is decided by where a copy was interrupted: what the two logs hold and say of themselves is
//! looked at each time. Between the seal and the end neither of the two is served.

mod progress;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use onhand_flows::copy::{self, Extent, Filled, LogDigest};
use onhand_log::{Counterpart, Fill, Glimpse, Log, Opening, Standing};
use onhand_server::{Durability, KafkaConfig, LogEngine};
use serde_json::{Map, Value, json};

use crate::on_kafka::{self, KafkaArgs, LogArgs, Place, host_name};
use crate::output::{Output, thousands};
use crate::stop;
use progress::Shown;

/// Which of the two is the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum To {
    /// From the journal in --data to the cluster of --kafka
    Kafka,
    /// From the cluster of --kafka to a new journal in --data
    Journal,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Which way
    #[arg(long, value_enum)]
    to: To,
    /// The data directory: of the stopped node, or where the new journal shall lie
    #[arg(long, env = "ONHAND_DATA", value_name = "DIR")]
    data: PathBuf,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    on_kafka: KafkaArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UnsealArgs {
    /// Says that you know what it risks: two nodes would each sell the same stock. Type new-epoch
    #[arg(long, value_name = "new-epoch")]
    confirm: Option<String>,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    log: LogArgs,
}

/// One end of a copy.
struct End {
    engine: LogEngine,
    data: PathBuf,
    /// For people, and for the seal.
    place: String,
    /// What serves it.
    serve: String,
}

impl End {
    fn journal(data: &Path) -> Self {
        let full = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        Self {
            engine: LogEngine::Journal(Durability::Sync),
            data: data.to_owned(),
            place: format!("the journal in {}", full.display()),
            serve: format!("onhand serve --data {}", shell(&data.display().to_string())),
        }
    }

    fn kafka(kafka: KafkaConfig, flags: &str, data: Option<&Path>) -> Self {
        let topics = match kafka.prefix.as_str() {
            "" => String::new(),
            prefix => format!(", topics {prefix}*"),
        };
        let data = data.map_or("DIR".to_owned(), |data| shell(&data.display().to_string()));
        Self {
            place: format!("Kafka at {}{topics}", kafka.brokers),
            serve: format!("onhand serve --data {data} {flags}"),
            engine: LogEngine::Kafka(kafka),
            data: PathBuf::new(),
        }
    }

    fn look(&self) -> Result<Option<Glimpse>> {
        let found = onhand_server::look_at_log(&self.engine, &self.data);
        found.map_err(|error| stop::usage(format!("{} cannot be read: {error}", self.place)))
    }

    /// Refuses a log that is served: what is taken in meanwhile would be lost, or sold twice.
    fn refuse_served(&self) -> Result<()> {
        let found = onhand_server::who_serves(&self.engine);
        let names = found.map_err(|error| {
            stop::usage(format!("who serves {} is not known: {error}", self.place))
        })?;
        if names.is_empty() {
            return Ok(());
        }
        let place = &self.place;
        let names = names.join(", ");
        Err(stop::refused(format!(
            "{place} is served by {names}: stop them first; nothing was changed"
        )))
    }

    fn open(&self, opening: Opening) -> Result<Arc<dyn Log>> {
        let opened = onhand_server::open_log(&self.engine, &self.data, opening);
        opened.map_err(|error| stop::usage(error.to_string()))
    }
}

/// A word as a shell takes it.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

pub(crate) fn run(args: &CopyArgs, out: &Output) -> Result<()> {
    // A name of its own: under a node's name it would take the node's place.
    let Some(kafka) = args.on_kafka.config(&format!("{}-copy", host_name())) else {
        return Err(stop::usage("name the cluster with --kafka BROKERS"));
    };
    let journal = End::journal(&args.data);
    let kafka = End::kafka(kafka, &args.on_kafka.words(), Some(&args.data));
    let (source, target) = match args.to {
        To::Kafka => (journal, kafka),
        To::Journal => (kafka, journal),
    };
    // Both are looked at before anything is written.
    let Some(from) = source.look()? else {
        return Err(stop::usage(format!("there is no log: {}", source.place)));
    };
    let into = target.look()?;
    match plan(&from, into.as_ref(), &source, &target)? {
        Plan::Done => {
            // On Kafka the seal stands in two places, and the second may be missing after a kill.
            let sealed = source.open(Opening::AsItIs)?;
            sealed.set_standing(&from.standing).with_context(|| {
                format!(
                    "{} could not be sealed; run the same command again",
                    source.place
                )
            })?;
            sealed
                .close()
                .with_context(|| format!("{} did not end cleanly", source.place))?;
            eprintln!("this copy is finished, and the source is sealed");
            said_next(&target);
            Ok(())
        }
        Plan::SealOnly => {
            source.refuse_served()?;
            seal_only(&source, &target)
        }
        Plan::Copy => {
            source.refuse_served()?;
            copy(&source, &target, out)
        }
    }
}

enum Plan {
    Copy,
    /// The target is complete, and only the seal of the source is missing.
    SealOnly,
    Done,
}

/// What is to be done, by what both say of themselves.
///
/// # Errors
/// Why it cannot be done.
fn plan(from: &Glimpse, into: Option<&Glimpse>, source: &End, target: &End) -> Result<Plan> {
    let is_source = |other: &Counterpart| other.id == from.id && from.id != 0;
    let finished =
        matches!(into, Some(Glimpse { standing: Standing::Copy(other), .. }) if is_source(other));
    match (&from.standing, into) {
        (Standing::Sealed(other), Some(into)) if other.id == into.id => {
            if let Standing::Sealed(later) = &into.standing {
                return Err(stop::refused(format!(
                    "{} was copied to {} long ago, and that is sealed itself: it moved to {}",
                    source.place, target.place, later.place
                )));
            }
            // Interrupted between the seal and the end.
            if matches!(&into.standing, Standing::Filling(other) if is_source(other)) {
                return Ok(Plan::Copy);
            }
            return Ok(Plan::Done);
        }
        (Standing::Sealed(other), _) => {
            return Err(stop::refused(format!(
                "{} is sealed: it moved to {}; copy from there",
                source.place, other.place
            )));
        }
        (Standing::Filling(other), _) => {
            return Err(stop::refused(format!(
                "{} is itself an unfinished copy of the log in {}; finish that first",
                source.place, other.place
            )));
        }
        _ => {}
    }
    match into {
        None => Ok(Plan::Copy),
        Some(into) => match &into.standing {
            _ if finished => Ok(Plan::SealOnly),
            Standing::Own if into.is_unused => Ok(Plan::Copy),
            Standing::Filling(other) if is_source(other) => Ok(Plan::Copy),
            Standing::Own => Err(stop::refused(format!(
                "{} holds a log already, which is no copy of {}; nothing was written: name a \
                 directory, or a --kafka-prefix, that is empty",
                target.place, source.place
            ))),
            standing => Err(stop::refused(format!(
                "{} holds another log already ({}); nothing was written: name a directory, or a \
                 --kafka-prefix, that is empty",
                target.place,
                standing.words()
            ))),
        },
    }
}

fn copy(source: &End, target: &End, out: &Output) -> Result<()> {
    eprintln!("copying {} to {}", source.place, target.place);
    eprintln!(
        "the source is only read, and sealed at the very end; to interrupt this is safe, the same \
         command goes on where it stopped"
    );
    let began = std::time::Instant::now();
    let from = source.open(Opening::AsItIs)?;
    let fill = || {
        Opening::Fill(Fill {
            source: Counterpart::new(from.id(), &source.place),
            epoch: from.epoch(),
            not_before: from.now(),
        })
    };
    let into = target.open(fill())?;
    let mut shown = Shown::new("copied");
    let filled = copy::fill(from.as_ref(), into.as_ref(), &mut |at| shown.tell(at));
    shown.end();
    let filled = filled.map_err(|error| stop::refused(error.to_string()))?;
    on_kafka::tell_of_strangers(from.as_ref());
    // What this process wrote may still be in its memory: another opening reads what is stored.
    let closed = into.close();
    closed.with_context(|| format!("{} did not end cleanly", target.place))?;
    drop(into);
    let into = target.open(fill())?;
    let mut shown = Shown::new("read back");
    let found = copy::read_back(into.as_ref(), &mut |at| shown.tell(at));
    shown.end();
    let found = found.map_err(|error| stop::refused(error.to_string()))?;
    compare(&from, &filled.digest, &into, &found)?;
    finish(source, &from, target, &into, &filled.extent)?;
    summary(&filled, &found, began.elapsed().as_secs_f64(), out)?;
    said_next(target);
    Ok(())
}

fn compare(
    from: &Arc<dyn Log>,
    wanted: &LogDigest,
    into: &Arc<dyn Log>,
    found: &LogDigest,
) -> Result<()> {
    let differs = copy::difference((from.as_ref(), wanted), (into.as_ref(), found));
    let Some(place) = differs.map_err(|error| stop::refused(error.to_string()))? else {
        return Ok(());
    };
    Err(stop::refused(format!(
        "the copy is not the same as its source: {place} (digests {} and {}); the target is not \
         served and the source is as it was: begin again with an empty target",
        wanted.hex(),
        found.hex()
    )))
}

/// The source is served no more from here on, and then the target may be: in the other order both could
/// be, by who begins in between.
fn finish(
    source: &End,
    from: &Arc<dyn Log>,
    target: &End,
    into: &Arc<dyn Log>,
    extent: &Extent,
) -> Result<()> {
    let refused = |error: copy::CopyError| stop::refused(error.to_string());
    if !extent.hold(from.as_ref()).map_err(refused)? {
        return Err(stop::refused(format!(
            "{} changed while it was copied: something still writes to it; stop it and run the same \
             command again, what was copied stays",
            source.place
        )));
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let other = |log: &Arc<dyn Log>, end: &End| {
        Counterpart::new(log.id(), &format!("{}, on {now}", end.place))
    };
    let again = "run the same command again";
    let sealed = Standing::Sealed(other(into, target));
    from.set_standing(&sealed)
        .with_context(|| format!("{} could not be sealed; {again}", source.place))?;
    // An instance that nobody heard, since it was stopped or cut off, lost its names before the seal. It
    // may have begun anew since; from now on the seal refuses it.
    copy::take_names(from.as_ref()).map_err(refused)?;
    let is_complete = matches!(into.standing(), Standing::Copy(_));
    if !extent.is_all_of(from.as_ref()).map_err(refused)? {
        let place = &source.place;
        return Err(stop::refused(if is_complete {
            format!(
                "{place} was written to a moment before it was sealed. It is sealed now, and {} lacks \
                 what came in then: bring it over by hand, `onhand log read stock.commands` shows it",
                target.place
            )
        } else {
            format!(
                "{place} was written to a moment before it was sealed. It is sealed now; {again}, which \
                 brings over what came in then"
            )
        }));
    }
    if !is_complete {
        let complete = Standing::Copy(other(from, source));
        into.set_standing(&complete)
            .with_context(|| format!("{} could not be completed; {again}", target.place))?;
    }
    into.close()
        .with_context(|| format!("{} did not end cleanly; {again}", target.place))?;
    from.close()
        .with_context(|| format!("{} did not end cleanly; {again}", source.place))
}

/// The copy was completed, and the source is not sealed: an earlier version was interrupted between the
/// two, or the source was put back from a backup. The target may have been served since.
fn seal_only(source: &End, target: &End) -> Result<()> {
    eprintln!(
        "{} is a finished copy of {}; the source is not sealed yet",
        target.place, source.place
    );
    let from = source.open(Opening::AsItIs)?;
    let into = target.open(Opening::AsItIs)?;
    let refused = |error: copy::CopyError| stop::refused(error.to_string());
    let extent = Extent::of(from.as_ref()).map_err(refused)?;
    let mut shown = Shown::new("compared");
    let more = copy::holds_more(from.as_ref(), into.as_ref(), &mut |at| shown.tell(at));
    shown.end();
    match more.map_err(refused)? {
        None => Err(stop::refused(format!(
            "they are not one history any more: {} was served after it was copied, and holds what {} \
             does not. Nothing was changed. Serve only one of them, and bring what the other took in \
             over by hand: `onhand log read stock.commands` shows it",
            source.place, target.place
        ))),
        Some(more) => {
            finish(source, &from, target, &into, &extent)?;
            match more {
                0 => eprintln!("the source is sealed now"),
                _ => eprintln!(
                    "the target was served meanwhile and holds {} records more; the source is sealed \
                     now",
                    thousands(more)
                ),
            }
            said_next(target);
            Ok(())
        }
    }
}

fn summary(filled: &Filled, found: &LogDigest, seconds: f64, out: &Output) -> Result<()> {
    let row = |name: &str, value: String| (name.to_owned(), value);
    let mut rows: Vec<_> = found
        .by_topic()
        .map(|(topic, records)| row(&format!("records of {topic}"), thousands(records)))
        .collect();
    rows.push(row("records", thousands(found.records())));
    rows.push(row("of them written now", thousands(filled.written)));
    let positions = i128::try_from(found.positions()).unwrap_or(i128::MAX);
    rows.push(row("positions of owners", thousands(positions)));
    rows.push(row("seconds", format!("{seconds:.1}")));
    rows.push(row("sha256 of both", found.hex()));
    let topics: Map<String, Value> = found
        .by_topic()
        .map(|(topic, records)| (topic.to_owned(), json!(records)))
        .collect();
    let facts = json!({
        "topics": topics,
        "records": found.records(),
        "written": filled.written,
        "positions": found.positions(),
        "seconds": seconds,
        "source_digest": filled.digest.hex(),
        "target_digest": found.hex(),
    });
    out.summary(&rows, &facts)
}

fn said_next(target: &End) {
    eprintln!("the source is sealed and refuses to be served; go on with:");
    eprintln!("  {}", target.serve);
}

/// What `unseal` risks, in full.
const RISK: &str = "\
a sealed log was copied, and its copy may have been served since. If both are served, each sells the
same stock, and nothing brings the two together again. What the copy took in is not here. Unseal only
if the copy is gone or will never be served again.
It begins a new epoch: readers of feeds are told that their positions mean nothing here any more, and
begin anew.";

pub(crate) fn unseal(args: &UnsealArgs) -> Result<()> {
    let end = match args.log.place("copy")? {
        Place::Cluster(kafka) => End::kafka(kafka, &args.log.on_kafka.words(), None),
        Place::Directory(data) => End::journal(data),
    };
    let Some(found) = end.look()? else {
        return Err(stop::usage(format!("there is no log: {}", end.place)));
    };
    let Standing::Sealed(other) = &found.standing else {
        return Err(stop::refused(format!(
            "{} is {}: there is nothing to unseal",
            end.place,
            found.standing.words()
        )));
    };
    if args.confirm.as_deref() != Some("new-epoch") {
        return Err(stop::usage(format!(
            "{} moved to {}.\n{RISK}\nTo do it all the same, add --confirm new-epoch",
            end.place, other.place
        )));
    }
    end.refuse_served()?;
    let log = end.open(Opening::Unseal)?;
    log.close()
        .with_context(|| format!("{} did not end cleanly", end.place))?;
    eprintln!(
        "{} is unsealed and in a new epoch; it does not hold what was taken in at {} since",
        end.place, other.place
    );
    eprintln!("  {}", end.serve);
    Ok(())
}

#[cfg(test)]
mod tests {
    use onhand_log::{Append, BatchBuilder, Ending, Purpose, TopicPartition, TopicSpec};

    use super::*;

    fn end(place: &str) -> End {
        End {
            engine: LogEngine::Journal(Durability::Sync),
            data: PathBuf::new(),
            place: place.to_owned(),
            serve: String::new(),
        }
    }

    #[test]
    fn what_a_copy_does_follows_from_what_both_logs_say() {
        let other = |id| Counterpart::new(id, "elsewhere");
        let glimpse = |id, standing, is_unused| Glimpse {
            id,
            standing,
            is_unused,
        };
        let own = glimpse(1, Standing::Own, false);
        let sealed = glimpse(1, Standing::Sealed(other(2)), false);
        let doing = |from: &Glimpse, into: Option<Glimpse>| {
            plan(from, into.as_ref(), &end("a"), &end("b")).map_err(|error| error.to_string())
        };
        assert!(matches!(doing(&own, None), Ok(Plan::Copy)));
        for (standing, unused, expected) in [
            (Standing::Own, true, "copy"),
            (Standing::Own, false, "no copy of a"),
            (Standing::Filling(other(1)), false, "copy"),
            (Standing::Filling(other(3)), false, "another log"),
            (Standing::Copy(other(1)), false, "seal"),
            (Standing::Copy(other(3)), false, "another log"),
            (Standing::Sealed(other(1)), false, "another log"),
        ] {
            let words = match doing(&own, Some(glimpse(2, standing.clone(), unused))) {
                Ok(Plan::Copy) => "copy".to_owned(),
                Ok(Plan::SealOnly) => "seal".to_owned(),
                Ok(Plan::Done) => "done".to_owned(),
                Err(words) => words,
            };
            assert!(words.contains(expected), "{standing:?}: {words}");
        }
        let there = glimpse(2, Standing::Copy(other(1)), false);
        assert!(matches!(doing(&sealed, Some(there)), Ok(Plan::Done)));
        let half = glimpse(2, Standing::Filling(other(1)), false);
        assert!(matches!(doing(&sealed, Some(half)), Ok(Plan::Copy)));
        let gone_on = glimpse(2, Standing::Sealed(other(4)), false);
        let refused = doing(&sealed, Some(gone_on)).err().unwrap_or_default();
        assert!(refused.contains("is sealed itself"), "{refused}");
        let refused = doing(&sealed, None).err().unwrap_or_default();
        assert!(refused.contains("moved to elsewhere"), "{refused}");
        let filling = glimpse(1, Standing::Filling(other(5)), false);
        assert!(doing(&filling, None).is_err());
    }

    /// A record more, durable.
    fn put(log: &dyn Log, value: &[u8]) {
        let spec = TopicSpec {
            name: "stock.commands".to_owned(),
            partitions: 1,
            compacted: false,
        };
        let topic = log.create_topic(&spec).unwrap();
        let token = log.claim("stock/0").unwrap();
        let mut batch = BatchBuilder::new();
        batch.push(log.now(), None, Some(value), &[]);
        let at = TopicPartition {
            topic,
            partition: 0,
        };
        let (ended, ending) = std::sync::mpsc::channel();
        let append = Append {
            purpose: Purpose::Intake,
            batches: vec![(at, batch.finish().unwrap())],
            consumed: Vec::new(),
            on_end: Some(Box::new(move |ending| ended.send(ending).unwrap())),
        };
        log.append(&token, append).unwrap();
        log.flush();
        assert_eq!(ending.recv().unwrap(), Ending::Durable);
    }

    /// A log of two records, and an empty place for its copy.
    fn two_journals(temp: &Path) -> (End, End) {
        let [source, target] = ["source", "target"].map(|name| End::journal(&temp.join(name)));
        let log = source.open(Opening::Serve).unwrap();
        put(log.as_ref(), b"one");
        put(log.as_ref(), b"two");
        log.close().unwrap();
        (source, target)
    }

    fn standing(end: &End) -> Standing {
        end.look().unwrap().unwrap().standing
    }

    fn go_on(source: &End, target: &End) -> Result<()> {
        let (from, into) = (source.look()?.unwrap(), target.look()?);
        match plan(&from, into.as_ref(), source, target)? {
            Plan::Copy => copy(source, target, &Output::new(None)),
            Plan::SealOnly => seal_only(source, target),
            Plan::Done => Ok(()),
        }
    }

    /// Wherever its end breaks off, one of the two at most can be served, and the next one ends it.
    #[test]
    fn the_source_is_sealed_before_the_target_is_complete() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = two_journals(temp.path());
        let from = source.open(Opening::AsItIs).unwrap();
        let fill = Fill {
            source: Counterpart::new(from.id(), "there"),
            epoch: from.epoch(),
            not_before: from.now(),
        };
        let into = target.open(Opening::Fill(fill)).unwrap();
        let filled = copy::fill(from.as_ref(), into.as_ref(), &mut |_| ()).unwrap();
        // It stops where the target is to be completed.
        into.close().unwrap();
        finish(&source, &from, &target, &into, &filled.extent).unwrap_err();
        from.close().unwrap();
        drop((from, into));
        assert!(matches!(standing(&source), Standing::Sealed(_)));
        assert!(matches!(standing(&target), Standing::Filling(_)));
        go_on(&source, &target).unwrap();
        assert!(matches!(standing(&source), Standing::Sealed(_)));
        assert!(matches!(standing(&target), Standing::Copy(_)));
    }

    #[test]
    fn a_source_that_grew_since_it_was_compared_is_not_sealed() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = two_journals(temp.path());
        let from = source.open(Opening::AsItIs).unwrap();
        let extent = Extent::of(from.as_ref()).unwrap();
        put(from.as_ref(), b"three");
        let into = target.open(Opening::Serve).unwrap();
        let error = finish(&source, &from, &target, &into, &extent).unwrap_err();
        assert!(error.to_string().contains("changed while"), "{error}");
        assert_eq!(from.standing(), Standing::Own);
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_take_it_apart() {
        assert_eq!(shell("/var/lib/onhand"), "/var/lib/onhand");
        assert_eq!(shell("/my data"), "'/my data'");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }
}
