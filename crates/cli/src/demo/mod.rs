//! `onhand demo`: a node, a day of trading from several sources, and what happens shown live.
//!
//! The node is a child process of this binary on a fresh directory, driven through its public API
//! like any other. Nothing is told that the node did not answer. At the end the node is stopped
//! and `onhand verify` checks everything it wrote.
//!
//! With `--kafka` it is another story: two instances on one cluster, and one of them is killed
//! ([`cluster`]).

mod cluster;
mod day;
mod node;
mod shops;
mod stage;
mod trade;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use tokio::signal::unix::{SignalKind, signal};

use self::node::{Home, Node};
use self::stage::Stage;
use crate::client::Client;
use crate::command::block_on;
use crate::output::thousands;
use crate::verify;

/// Pause after each line where somebody reads along; without a terminal there is none.
const PACE: Duration = Duration::from_millis(120);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Which day: the same number plays the same day again
    #[arg(long, env = "ONHAND_SEED", default_value_t = 7, value_name = "N")]
    seed: u64,
    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        env = "ONHAND_DEMO_LISTEN",
        default_value = "127.0.0.1:0",
        value_name = "ADDR"
    )]
    listen: String,
    /// Play another story on Apache Kafka, at these brokers: two instances, one of which is killed
    #[arg(long, env = "ONHAND_DEMO_KAFKA", value_name = "BROKERS")]
    kafka: Option<String>,
    /// Keep what the demo writes in this directory, which must be empty; the node's data is then in DIR/data
    /// [default: a temporary one, removed]
    #[arg(long, env = "ONHAND_DEMO_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    block_on(perform(args))?
}

async fn perform(args: &DemoArgs) -> Result<()> {
    // Taken first, so that Ctrl-C cleans up at any time.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let told_to_end = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    let mut told_to_end = std::pin::pin!(told_to_end);
    let home = Home::new(args.data.as_deref())?;
    if let Some(brokers) = &args.kafka {
        return tokio::select! {
            played = cluster::play(brokers, args.seed, &home) => played,
            () = told_to_end.as_mut() => Ok(()),
        };
    }
    let reading_along = std::io::stdout().is_terminal();
    tokio::select! {
        played = play(args, &home, reading_along) => {
            let listen = played?;
            if !reading_along {
                return Ok(());
            }
            let node = Node::start(&home, &listen)?;
            invite(&node);
            told_to_end.await;
            let status = node.stop()?;
            ensure!(
                status.success(),
                "the node ended with {status}; its words are in {}",
                home.words().display()
            );
            Ok(())
        }
        () = told_to_end.as_mut() => Ok(()),
    }
}

/// Plays the day and checks the log; gives the address that the node had.
async fn play(args: &DemoArgs, home: &Home, reading_along: bool) -> Result<String> {
    let began = Instant::now();
    let node = Node::start(home, &args.listen)?;
    println!(
        "a node on {}, its data in {}",
        node.url,
        home.data().display()
    );
    let pace = if reading_along { PACE } else { Duration::ZERO };
    let mut stage = Stage::open(Client::new(&node.url, PATIENCE)?, pace);
    let yesterday = Timestamp::now() - 24.hours();
    let day = yesterday.to_zoned(TimeZone::UTC).date();
    let trade = trade::trade(args.seed, day);
    println!(
        "a day of trading, {day} (UTC), made from seed {}",
        args.seed
    );
    day::play(&mut stage, &trade, day).await?;

    stage
        .scene("18:00  The node is stopped, and everything it wrote is checked")
        .await;
    let listen = node.address().to_owned();
    let status = node.stop()?;
    ensure!(
        status.success(),
        "the node ended with {status}; its words are in {}",
        home.words().display()
    );
    stage
        .say("stopped cleanly; onhand verify recomputes every rule from the log:")
        .await;
    let report = verify::check(&home.data(), &onhand_verify::Window::default())?;
    for (name, value) in verify::rows(&report)? {
        println!("     {name:<22} {value:>10}");
    }
    verify::conclude(&report)?;
    stage.say("verify: clean").await;
    let outcomes = stage.outcomes.iter();
    let outcomes: Vec<String> = outcomes
        .map(|(word, count)| format!("{} {word}", thousands(*count)))
        .collect();
    println!(
        "\nthe day: {}; {} changes on the feed, numbered without gap; {:.1} s",
        outcomes.join(", "),
        thousands(stage.heard),
        began.elapsed().as_secs_f64()
    );
    Ok(listen)
}

/// What to try while the node stays up.
fn invite(node: &Node) {
    let url = &node.url;
    let path = not_on_path().map_or_else(String::new, |dir| {
        format!("export PATH=\"{}:$PATH\"\n", dir.display())
    });
    println!(
        "\nthe node is up again on {url}, with the day in it; in another terminal:\n\n\
         {path}export ONHAND_URL={url}\n\
         onhand stock ls --sku game-x\n\
         onhand stock history scarf-grey --location south --limit 5\n\
         onhand stock watch --snapshot --sku mug-blue &\n\
         onhand stock ship mug-blue north 1\n\
         onhand reservation create mug-blue=2@north\n\
         onhand conflict ls\n\
         curl -N '{url}/v1/changes?since=earliest'\n\n\
         Ctrl-C ends it."
    );
}

/// Where this program is, unless a shell finds it under its name.
fn not_on_path() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?.canonicalize().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("onhand"))
        .find(|candidate| candidate.is_file())
        .and_then(|found| found.canonicalize().ok());
    if found.as_ref() == Some(&own) {
        None
    } else {
        own.parent().map(Path::to_owned)
    }
}
