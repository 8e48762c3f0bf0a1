//! `onhand verify`: everything the log promises, recomputed by code that shares nothing with the
//! ledger.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use onhand_log::Opening;
use onhand_server::{KafkaConfig, LogEngine};
use onhand_verify::{Progress, Report, Window};
use serde_json::{Value, json};

use crate::duration::Milliseconds;
use crate::log::journal_in;
use crate::on_kafka::{self, LogArgs, Place};
use crate::output::{Output, thousands};
use crate::{serve, stop};

/// Violations printed for people; -o json has all that were kept.
const SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The node's --ids-age, the shortest it ever had: a repeat after that may count as new
    #[arg(long, env = "ONHAND_IDS_AGE", default_value = "7d", value_parser = serve::ids_age,
          value_name = "DURATION")]
    ids_age: Milliseconds,
    /// The node's --ids-max, the least it ever had
    #[arg(
        long,
        env = "ONHAND_IDS_MAX",
        default_value_t = 1_000_000,
        value_name = "N"
    )]
    ids_max: u32,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: &VerifyArgs, out: &Output) -> Result<()> {
    let window = Window {
        ids_max: u64::from(args.ids_max),
        ids_age_ms: args.ids_age.get(),
    };
    let report = match args.log.place("verify")? {
        Place::Cluster(kafka) => check_on_kafka(kafka, &window)?,
        Place::Directory(data) => check(data, &window)?,
    };
    let mut facts = serde_json::to_value(&report)?;
    if let Value::Object(facts) = &mut facts {
        facts.insert("ok".to_owned(), json!(report.is_clean()));
        facts.insert(
            "violation_count".to_owned(),
            json!(report.violation_count()),
        );
    }
    out.summary(&rows(&report)?, &facts)?;
    conclude(&report)
}

/// Checks what is committed on a cluster. A node may go on writing meanwhile, and is then checked up to
/// about the present.
///
/// # Errors
/// Usage, when it cannot be read at all.
pub(crate) fn check_on_kafka(kafka: KafkaConfig, window: &Window) -> Result<Report> {
    let brokers = kafka.brokers.clone();
    let log = onhand_server::open_log(&LogEngine::Kafka(kafka), Path::new(""), Opening::AsItIs);
    let log = log.map_err(|error| on_kafka::unopened(&error))?;
    let report = shown(|progress| onhand_verify::verify_log(log.as_ref(), window, progress));
    on_kafka::tell_of_strangers(log.as_ref());
    report.map_err(|error| stop::usage(format!("the log on {brokers} cannot be checked: {error}")))
}

/// Checks a directory.
///
/// # Errors
/// Usage, when it cannot be read at all. Violations are in the report.
pub(crate) fn check(dir: &Path, window: &Window) -> Result<Report> {
    let report = shown(|progress| onhand_verify::verify_within(&journal_in(dir), window, progress));
    report.map_err(|error| {
        stop::usage(format!(
            "{} cannot be checked: {error}; name the directory that `onhand serve --data` was \
             given",
            dir.display()
        ))
    })
}

/// With progress on stderr where that is a terminal.
fn shown<R>(check: impl FnOnce(&dyn Fn(Progress)) -> R) -> R {
    let progress = ProgressBar::new_spinner();
    let result = check(&|at| match at {
        Progress::Bytes => progress.set_message("checking bytes"),
        Progress::Decisions {
            partitions,
            partitions_done,
            decisions,
        } => {
            let decisions = thousands(decisions);
            progress.set_message(format!(
                "{partitions_done} of {partitions} partitions, {decisions} decisions"
            ));
            progress.tick();
        }
    });
    progress.finish_and_clear();
    result
}

/// The figures that are not zero, and how many violations there are.
pub(crate) fn rows(report: &Report) -> Result<Vec<(String, String)>> {
    let figures = serde_json::to_value(report.figures)?;
    let mut rows = Vec::new();
    for (name, value) in figures.as_object().into_iter().flatten() {
        if let Some(count) = value.as_u64().filter(|count| *count > 0) {
            rows.push((name.replace('_', " "), thousands(count)));
        }
    }
    rows.push(("violations".to_owned(), thousands(report.violation_count())));
    Ok(rows)
}

/// Says what is violated.
///
/// # Errors
/// Refused, when anything is.
pub(crate) fn conclude(report: &Report) -> Result<()> {
    if report.is_clean() {
        eprintln!("clean: every rule of the ledger holds, recomputed from the log");
        return Ok(());
    }
    for violation in report.violations.iter().take(SHOWN_MAX) {
        eprintln!("{violation}");
    }
    Err(stop::refused(format!(
        "{} violations; -o json lists {} of them; keep a copy of the directory, and restore \
         an earlier one",
        thousands(report.violation_count()),
        report.violations.len()
    )))
}
