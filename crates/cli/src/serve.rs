//! `onhand serve`: one node, until it is told to stop.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use onhand_server::{Config, Durability, KafkaConfig, LogEngine, ViewChoice};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::duration::{self, Milliseconds};
use crate::on_kafka::{self, KafkaArgs, host_name};

/// Threads that serve connections, at most. Half of the cores: the rest decide, write and sync, and the
/// kernel's work on sockets takes its share too. On two cores a second one made each command 20 us
/// later (125 to 137 us against 150 to 156 at p50, in three pairs), since runtime threads hand the
/// polling of sockets to each other, for 5 % more of bulk.
const IO_THREADS_MAX: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where everything is kept; made where it is missing. On Kafka only snapshots, which shorten
    /// restarts
    #[arg(long, env = "ONHAND_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Where to listen; port 0 takes a free one. There is no login: let the port be reached only by those who
    /// may read and change all stock, other instances among them
    #[arg(
        long,
        env = "ONHAND_LISTEN",
        default_value = "127.0.0.1:7171",
        value_name = "ADDR"
    )]
    listen: SocketAddr,
    /// Where other instances on the same log reach this one [default: the listen address]. Needed where
    /// that is 0.0.0.0; on several machines each says its own
    #[arg(long, env = "ONHAND_ADVERTISE", value_name = "HOST:PORT", value_parser = advertised)]
    advertise: Option<String>,
    /// When an acknowledgement leaves: sync (it is on disk), interval:MS or os (it may be lost
    /// when the machine fails)
    #[arg(long, env = "ONHAND_DURABILITY", default_value = "sync", value_parser = durability,
          value_name = "sync|interval:MS|os", conflicts_with = "kafka")]
    durability: Durability,
    /// Partitions of a new log [default: 16]; one that exists keeps its own. On Kafka each costs requests in
    /// every transaction: as many as all instances together will ever have cores are enough
    #[arg(long, env = "ONHAND_PARTITIONS", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1_024))]
    partitions: Option<u16>,
    /// A source that may set absolute quantities; may be given more than once
    #[arg(
        long,
        env = "ONHAND_TRUTH",
        value_name = "SOURCE",
        value_delimiter = ','
    )]
    truth: Vec<String>,
    /// Park facts about SKUs and locations never named before, in place of creating them
    #[arg(long, env = "ONHAND_KNOWN_ONLY")]
    known_only: bool,
    /// How long the id of a command is remembered, by the time of the log; a repeat after that is new.
    /// The present reach is the metric onhand_ids_reach_seconds
    #[arg(long, env = "ONHAND_IDS_AGE", default_value = "7d", value_parser = ids_age,
          value_name = "DURATION")]
    ids_age: Milliseconds,
    /// Ids remembered in each partition, newest first; each takes about 53 bytes of memory
    #[arg(long, env = "ONHAND_IDS_MAX", default_value_t = 1_000_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    ids_max: u32,
    /// How far back from its newest event time a level folds facts and counts exactly
    #[arg(long, env = "ONHAND_HORIZON", default_value = "72h", value_parser = horizon,
          value_name = "DURATION")]
    horizon: Milliseconds,
    /// How long a step of a reservation waits for the owners of its SKUs before it is rejected
    #[arg(long, env = "ONHAND_ANSWER_TIMEOUT", default_value = "10s", value_parser = answer_timeout,
          value_name = "DURATION")]
    answer_timeout: Milliseconds,
    /// Threads that decide
    #[arg(long, env = "ONHAND_WORKERS", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Take commands that other programs write to the topic stock.inbox [default: on with --kafka]
    #[arg(long, env = "ONHAND_INBOX", value_enum, value_name = "on|off")]
    inbox: Option<Switch>,
    /// Write JSON topics for other programs to read: on for all four, or some of
    /// changes,outcomes,levels,reservations (stock.changes and so on) [default: on with --kafka]
    #[arg(long, env = "ONHAND_VIEWS", value_name = "on|off|LIST")]
    views: Option<ViewChoice>,
    /// Write stock.changes and stock.outcomes as many lines of JSON in one record, without a key, instead of
    /// one record each
    #[arg(long, env = "ONHAND_PACK_VIEWS")]
    pack_views: bool,
    /// What the node says of itself on stderr: error, warn, info, debug, or by part
    #[arg(
        long,
        env = "ONHAND_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
    /// How many other instances follow each partition in memory, at most as many as there are others. When
    /// an owner dies they take over without a restore, and reads with max_stale_ms are answered by them.
    /// Each costs the memory of the state once more, over all instances together, and reading what is
    /// decided. The same on every instance
    #[arg(long, env = "ONHAND_STANDBYS", default_value_t = 0, value_name = "N",
          value_parser = clap::value_parser!(u16).range(0..=15), requires = "kafka",
          help_heading = "On Kafka")]
    standbys: u16,
    /// Most time that an instance warms up when it joins others: it follows what is going to be its own, which
    /// its owners serve meanwhile, and takes over once it is level with them. 0s: it takes over at once, and
    /// what it takes answers nobody until it is restored
    #[arg(long, env = "ONHAND_WARM_UP", default_value = "10m", value_parser = warm_up,
          value_name = "DURATION", requires = "kafka", help_heading = "On Kafka")]
    warm_up: Milliseconds,
    /// How long a start waits for brokers: none answers yet, or fewer than --kafka-replication. It says so
    /// each time it asks and has asked, answers no request meanwhile, and ends with exit code 3 where none
    /// came. One question takes up to 10s, so it may end that much later. 0s: it asks once
    #[arg(long, env = "ONHAND_KAFKA_WAIT", default_value = "60s", value_parser = kafka_wait,
          value_name = "DURATION", requires = "kafka", help_heading = "On Kafka")]
    kafka_wait: Milliseconds,
    /// An instance of which the others heard nothing for so long is given up, and they take over what it had.
    /// Longer where machines or brokers stand still at times. The same on every instance
    #[arg(long, env = "ONHAND_SESSION_TIMEOUT", default_value = "1500ms", value_parser = session_timeout,
          value_name = "DURATION", requires = "kafka", help_heading = "On Kafka")]
    session_timeout: Milliseconds,
    /// How long the brokers keep records of stock.inbox, 1h or longer, or forever. What they drop before it is
    /// taken is lost: choose longer than onhand may ever be down
    #[arg(long, env = "ONHAND_INBOX_RETENTION", default_value = "forever", value_parser = retention,
          value_name = "DURATION|forever", requires = "kafka", help_heading = "On Kafka")]
    inbox_retention: Retention,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    on_kafka: KafkaArgs,
}

/// Whether something is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How long something is kept; `None`: without end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Retention(Option<Milliseconds>);

fn retention(text: &str) -> Result<Retention, String> {
    if text == "forever" {
        return Ok(Retention(None));
    }
    let time = duration::parse(text, duration::HOUR, 3_660 * duration::DAY);
    time.map(|time| Retention(Some(time)))
        .map_err(|why| format!("{why}, or forever"))
}

/// `host:port`, as other instances will connect to it.
fn advertised(text: &str) -> Result<String, String> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        !host.is_empty()
            && host.chars().all(plain)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_address {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no address; write host:port, such as stock-1.shop:7171"
        ))
    }
}

pub(crate) fn ids_age(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, duration::MINUTE, 366 * duration::DAY)
}

fn horizon(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, duration::MINUTE, 3_660 * duration::DAY)
}

fn answer_timeout(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, duration::SECOND, 30 * duration::SECOND)
}

fn session_timeout(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, 1_200, duration::MINUTE)
}

fn warm_up(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, 0, duration::DAY)
}

fn kafka_wait(text: &str) -> Result<Milliseconds, String> {
    duration::parse(text, 0, duration::DAY)
}

/// `sync`, `interval:MS` or `os`.
fn durability(text: &str) -> Result<Durability, String> {
    match text.split_once(':') {
        None if text == "sync" => Ok(Durability::Sync),
        None if text == "os" => Ok(Durability::Os),
        Some(("interval", ms)) => match ms.parse() {
            Ok(ms @ 1..=60_000) => Ok(Durability::Interval(Duration::from_millis(ms))),
            _ => Err(format!(
                "{ms:?} is no interval; write 1 to 60000 milliseconds"
            )),
        },
        _ => Err(format!(
            "{text:?} is no durability; write sync, interval:MS or os"
        )),
    }
}

impl ServeArgs {
    fn config(&self) -> Config {
        let mut config = Config::new(&self.data);
        config.listen = self.listen;
        config.advertise.clone_from(&self.advertise);
        config.engine = match self.on_kafka.config(&host_name()) {
            None => LogEngine::Journal(self.durability),
            Some(kafka) => LogEngine::Kafka(KafkaConfig {
                inbox_retention: self.inbox_retention.0.map(Into::into),
                session_timeout: self.session_timeout.into(),
                ..kafka
            }),
        };
        config.start_wait = self.kafka_wait.into();
        config.standbys = self.standbys;
        config.warm_up = self.warm_up.into();
        config.partitions = self.partitions;
        config.workers = self.workers;
        config.truth.clone_from(&self.truth);
        config.known_only = self.known_only;
        config.ids_age = self.ids_age.into();
        config.ids_max = self.ids_max;
        config.horizon = self.horizon.into();
        config.answer_timeout = self.answer_timeout.into();
        config.inbox = self.inbox.map(|switch| switch == Switch::On);
        config.views = self.views;
        config.pack_views = self.pack_views;
        config
    }
}

pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        crate::stop::usage(format!(
            "--log {:?} is no filter: {error}; write info",
            args.log
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((threads / 2).clamp(1, IO_THREADS_MAX))
        .enable_all()
        .build()
        .context("cannot start the node's threads")?;
    runtime.block_on(async {
        // Taken before the node starts, so that a signal during a long restart is not lost.
        let shutdown = signals()?;
        let started = Cell::new(false);
        let ended = onhand_server::run(args.config(), shutdown, |address| {
            started.set(true);
            println!("listening on http://{address}");
        });
        ended
            .await
            .map_err(on_kafka::stopped)
            .with_context(|| match started.get() {
                true => format!("the node on {} stopped", args.data.display()),
                false => format!("the node on {} cannot start", args.data.display()),
            })
    })
}

/// Ends at the first SIGTERM or SIGINT; the second ends the process at once.
fn signals() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("stopping: finishing what is under way; signal again to stop at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("stopped at once; what was acknowledged is in the log");
            std::process::exit(1);
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_has_a_host_and_a_port() {
        for good in ["stock-1.shop:7171", "10.0.0.11:80", "[::1]:7171"] {
            assert_eq!(advertised(good).as_deref(), Ok(good));
        }
        for wrong in [
            "",
            "host",
            ":7171",
            "host:0",
            "host:http",
            "http://host:7171",
            "a b:1",
        ] {
            assert!(advertised(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_kept_for_a_time_is_kept_for_an_hour_at_least() {
        let kept = |text: &str| retention(text).map(|kept| kept.0.map(Milliseconds::get));
        assert_eq!(kept("forever"), Ok(None));
        assert_eq!(kept("7d"), Ok(Some(7 * duration::DAY)));
        for wrong in ["59m", "0", "-1", "Forever", ""] {
            assert!(kept(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durability_says_what_it_is() {
        assert_eq!(durability("sync"), Ok(Durability::Sync));
        assert_eq!(durability("os"), Ok(Durability::Os));
        let interval = Durability::Interval(Duration::from_millis(5));
        assert_eq!(durability("interval:5"), Ok(interval));
        for wrong in [
            "",
            "Sync",
            "interval",
            "interval:0",
            "interval:x",
            "interval:99999999",
        ] {
            assert!(durability(wrong).is_err(), "{wrong}");
        }
    }
}
