//! The offline checker: proves from a log's bytes that every promise of the ledger was kept.
//!
//! It shares nothing with the code that wrote the log: it knows the documented formats and the rules,
//! has its own fold, and compares. A mistake would have to be made twice, in different words, to pass.
//!
//! ```text
//!  stock.commands ──► inputs ──┐                       ┌─► stock: figures, movements, folds
//!                              ├─► partition: each ────┼─► names: applied once
//!  stock.decisions ─► pack ────┘   decision in order   ├─► holds, reservations: units end once
//!  stock.state ─────► changelog ◄── compared ──────────┘
//!  all partitions ──► links: what was sent was received, reservations and holds agree
//! ```
//!
//! The log must be at rest: a stopped node, or a copy. Each partition is streamed once; what is kept
//! is its state (levels, open holds, reservations, names within their window), never the log.
//!
//! Modules in reading order: [`report`], `wire` and `pack` (the format), `source` and `inputs` (the
//! log), `partition` (the walk), `stock`, `fold`, `names`, `holds`, `reservations`, `changelog`,
//! `links`.

mod changelog;
mod fold;
mod holds;
mod inputs;
mod links;
mod names;
mod pack;
mod partition;
pub mod report;
mod reservations;
mod source;
mod stock;
mod table;
mod wire;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;

use onhand_log::journal::{self, JournalReader};
use onhand_log::{Log, Offset, ReadError, TopicId};
use thiserror::Error;

pub use report::{Figures, Invariant, Report, Violation};

use partition::{Rest, TopicIds};
use source::Source;

pub(crate) const COMMANDS: &str = "stock.commands";
pub(crate) const DECISIONS: &str = "stock.decisions";
pub(crate) const STATE: &str = "stock.state";
pub(crate) const DEAD_LETTERS: &str = "dead-letters";
/// Commands of others, before they are taken. A log need not have it.
pub(crate) const INBOX: &str = "stock.inbox";

/// Decisions between two reports of progress: often enough for a bar, rarely enough to cost nothing.
const PROGRESS_EVERY: u64 = 10_000;
/// Partitions checked at once at most: each keeps the state of its partition in memory.
const THREADS_MAX: usize = 4;

/// How far the checker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The log's bytes are being checked; how many there are is not known yet.
    Bytes,
    /// Partitions are being checked.
    Decisions {
        partitions: u16,
        partitions_done: u16,
        /// Decisions checked so far, of all partitions.
        decisions: u64,
    },
}

/// How long names of commands are remembered: the settings of the node that wrote the log. A repeat
/// within both bounds must be known; one beyond them may be taken as new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Newest names remembered per partition.
    pub ids_max: u64,
    /// How long a name is remembered, ms of log time.
    pub ids_age_ms: i64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            ids_max: 1_000_000,
            ids_age_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// Why a log could not be checked at all. What is wrong *in* a log is a [`Violation`].
#[derive(Debug, Error)]
pub enum VerifyError {
    #[error(transparent)]
    Open(#[from] journal::OpenError),
    #[error(transparent)]
    Check(#[from] journal::CheckError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "the log has no topic {0}, though it has others of onhand; name the directory that \
         `onhand serve --data` was given"
    )]
    MissingTopic(&'static str),
    #[error(
        "{topic} has {found} partitions and {COMMANDS} has {expected}; this is no log of onhand"
    )]
    Partitions {
        topic: &'static str,
        found: u16,
        expected: u16,
    },
    #[error(
        "partition {partition} of {topic} begins at offset {start}, and a proof needs the log from its \
         first record on; check a copy from before the older records were released"
    )]
    Trimmed {
        topic: &'static str,
        partition: u16,
        start: Offset,
    },
    #[error("a thread for checking could not be started: {0}; try again with more memory free")]
    Thread(#[from] std::io::Error),
}

/// Checks the journal in `dir`: its bytes, then every invariant of the ledger.
///
/// Nothing is changed and no lock is taken; a node must not be writing to it. Damaged bytes end the
/// check with violations of [`Invariant::Bytes`]: what was computed from them would mean nothing.
///
/// # Errors
/// [`VerifyError`] when it could not be checked.
pub fn verify(dir: &Path, progress: &dyn Fn(Progress)) -> Result<Report, VerifyError> {
    verify_within(dir, &Window::default(), progress)
}

/// As [`verify`], for a node whose settings are not the default ones.
///
/// # Errors
/// As [`verify`].
pub fn verify_within(
    dir: &Path,
    window: &Window,
    progress: &dyn Fn(Progress),
) -> Result<Report, VerifyError> {
    progress(Progress::Bytes);
    let bytes = journal::check(dir)?;
    let mut report = Report::default();
    for damage in &bytes.damage {
        report.add(Violation {
            invariant: Invariant::Bytes,
            partition: 0,
            decision: None,
            offset: None,
            sku: None,
            location: None,
            reservation: None,
            what: format!(
                "segment {} is damaged at byte {}: {}",
                damage.segment, damage.position, damage.what
            ),
        });
    }
    if !report.is_clean() {
        return Ok(report);
    }
    let reader = JournalReader::open(dir)?;
    verify_source(&reader, window, progress)
}

/// Checks what is durable in a log: every invariant of the ledger.
///
/// # Errors
/// As [`verify`].
pub fn verify_log(
    log: &dyn Log,
    window: &Window,
    progress: &dyn Fn(Progress),
) -> Result<Report, VerifyError> {
    verify_source(&log, window, progress)
}

fn verify_source<S: Source>(
    source: &S,
    window: &Window,
    progress: &dyn Fn(Progress),
) -> Result<Report, VerifyError> {
    let Some((topics, partitions)) = find_topics(source)? else {
        return Ok(Report::default());
    };
    let rests = check_partitions(source, topics, partitions, window, progress)?;
    let between = links::check(&rests);
    let mut report = Report::default();
    for rest in rests {
        report.merge(rest.report);
    }
    report.merge(between);
    Ok(report)
}

/// The topics and their partition count; `None` in a log where no node has started yet.
fn find_topics<S: Source>(source: &S) -> Result<Option<(TopicIds, u16)>, VerifyError> {
    let all = source.topics();
    let find = |name: &'static str| all.iter().find(|topic| topic.spec.name == name);
    let Some(commands) = find(COMMANDS) else {
        return Ok(None);
    };
    let expected = commands.spec.partitions;
    let id = |topic: &'static str| -> Result<TopicId, VerifyError> {
        let found = find(topic).ok_or(VerifyError::MissingTopic(topic))?;
        if found.spec.partitions != expected {
            return Err(VerifyError::Partitions {
                topic,
                found: found.spec.partitions,
                expected,
            });
        }
        Ok(found.id)
    };
    let topics = TopicIds {
        commands: commands.id,
        decisions: id(DECISIONS)?,
        state: id(STATE)?,
        dead_letters: id(DEAD_LETTERS)?,
    };
    Ok(Some((topics, expected)))
}

enum Said {
    Decisions(u64),
    Partition(u16, Result<Box<Rest>, VerifyError>),
}

/// Checks all partitions, several at once.
fn check_partitions<S: Source>(
    source: &S,
    topics: TopicIds,
    partitions: u16,
    window: &Window,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Rest>, VerifyError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU16::new(0);
    let (say, said) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..cores.min(THREADS_MAX).min(usize::from(partitions)) {
            let (say, next) = (say.clone(), &next);
            let work = move || {
                loop {
                    let partition = next.fetch_add(1, Ordering::Relaxed);
                    if partition >= partitions {
                        return;
                    }
                    let mut told = 0;
                    let mut step = |decisions: u64| {
                        if decisions - told >= PROGRESS_EVERY {
                            // The receiver lives as long as this scope.
                            let _ = say.send(Said::Decisions(decisions - told));
                            told = decisions;
                        }
                    };
                    let rest =
                        partition::check(source, topics, partition, partitions, window, &mut step);
                    let failed = rest.is_err();
                    let _ = say.send(Said::Partition(partition, rest.map(Box::new)));
                    if failed {
                        next.store(partitions, Ordering::Relaxed);
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name("verify".to_owned())
                .spawn_scoped(scope, work)?;
        }
        drop(say);
        let (mut decisions, mut done) = (0, 0);
        let mut rests: Vec<Option<Rest>> = (0..partitions).map(|_| None).collect();
        let mut failure = None;
        for said in said {
            match said {
                Said::Decisions(more) => decisions += more,
                Said::Partition(partition, Ok(rest)) => {
                    done += 1;
                    if let Some(place) = rests.get_mut(usize::from(partition)) {
                        *place = Some(*rest);
                    }
                }
                Said::Partition(_, Err(error)) => failure = failure.or(Some(error)),
            }
            progress(Progress::Decisions {
                partitions,
                partitions_done: done,
                decisions,
            });
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(rests.into_iter().flatten().collect()),
        }
    })
}
