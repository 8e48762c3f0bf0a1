//! Putting the pieces together: the log, the flows over it, HTTP in front. The one place that names
//! the engines.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::{Node, NodeConfig, StartError};
use onhand_kafka::{KafkaLog, KafkaSettings};
use onhand_ledger::{Settings, Source};
use onhand_log::journal::{Journal, JournalConfig, JournalReader, OpenError};
use onhand_log::{Glimpse, Log, Opening};
use onhand_streams::{SubmitError, WorkerConfig};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::App;
use crate::config::{Config, KafkaConfig, LogEngine};
use crate::engine::Engine;
use crate::feed::hub::Hub;
use crate::http::listen;
use crate::intake::spool::SpoolDir;

/// Why a node did not run, or did not end cleanly.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    OpenKafka(#[from] onhand_kafka::OpenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error("cannot use {}: {error}; check its owner and its space", path.display())]
    Directory {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("a thread could not be started: {0}; raise the limit on threads")]
    Thread(std::io::Error),
    #[error("the node did not end cleanly: {0}; what was acknowledged is in the log")]
    Stop(#[from] SubmitError),
}

/// Runs a node until `shutdown` resolves, then ends it cleanly: it takes no more, finishes what it
/// took, closes the feeds with their positions, and seals the log. `ready` is told the address once
/// the node is restored and listens.
///
/// Needs a tokio runtime of the kind with several threads: one of them may be blocked for a sync.
///
/// # Errors
/// [`RunError`] says what is wrong and what to do. After a failed write or sync of the log nothing more
/// was acknowledged.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    // Bound before the log is touched: an address in use is the commonest slip.
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| RunError::Listen {
            address: config.listen,
            error,
        })?;
    let address = listener.local_addr().map_err(|error| RunError::Listen {
        address: config.listen,
        error,
    })?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "there is no login yet: whoever reaches this address can read and change all stock"
        );
    }
    let opening = config.clone();
    let node = tokio::task::spawn_blocking(move || open(&opening))
        .await
        .map_err(|error| RunError::Thread(std::io::Error::other(error)))??;
    let spool = SpoolDir::open(&config.data).map_err(|error| RunError::Directory {
        path: config.data.clone(),
        error,
    })?;
    let engine = Arc::new(Engine::new(&node, config.limits.scans));
    let hub = Hub::start(&engine, config.limits.feed_ring_bytes).map_err(RunError::Thread)?;
    let (stop, stopped) = watch::channel(false);
    let app = Arc::new(App::new(
        engine,
        config.limits,
        Arc::clone(&hub),
        spool,
        stopped.clone(),
    ));
    let serving = tokio::spawn(listen::serve(listener, Arc::clone(&app), stopped));
    ready(address);
    // Cancellation: neither loses anything; a log that stopped by itself ends the node too.
    tokio::select! {
        () = shutdown => {}
        () = failed(&app) => tracing::error!("the log stopped; the node ends"),
        why = owners_stopped(&app) => tracing::error!(why, "the node ends"),
    }
    app.not_ready();
    let _ = stop.send_replace(true);
    if let Err(error) = serving.await {
        tracing::error!(%error, "the listener ended badly");
    }
    hub.stop();
    drop(app);
    tokio::task::spawn_blocking(move || node.stop())
        .await
        .map_err(|error| RunError::Thread(std::io::Error::other(error)))??;
    Ok(())
}

/// Resolves when the log stops by itself.
async fn failed(app: &App) {
    let (tell, mut told) = watch::channel(false);
    app.engine.log.listen(Box::new(move |progress| {
        if progress == onhand_log::Progress::Stopped {
            let _ = tell.send_replace(true);
        }
    }));
    if told.wait_for(|stopped| *stopped).await.is_err() {
        // The log is gone with its listeners, which only happens once the node has ended.
        std::future::pending::<()>().await;
    }
}

/// How often it is looked whether the owners of the partitions still work.
const LOOK: Duration = Duration::from_millis(500);

/// Resolves when they stopped by themselves: another node has their partitions, or a round panicked.
async fn owners_stopped(app: &App) -> String {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if let Some(why) = app.engine.stopped() {
            return why;
        }
    }
}

/// Opens a log as a node would, with nothing running on it. The journal lies in `data`.
///
/// # Errors
/// [`RunError`] says what is wrong and what to do.
pub fn open_log(
    engine: &LogEngine,
    data: &Path,
    opening: Opening,
) -> Result<Arc<dyn Log>, RunError> {
    Ok(match engine {
        LogEngine::Journal(durability) => {
            let journal = Journal::open(JournalConfig {
                durability: *durability,
                opening,
                ..JournalConfig::new(data.join("journal"))
            })?;
            let report = journal.recovery();
            tracing::info!(?report, "journal opened");
            Arc::new(journal)
        }
        LogEngine::Kafka(kafka) => {
            let log = KafkaLog::open(KafkaSettings {
                opening,
                ..kafka_settings(kafka)
            })?;
            tracing::info!(
                brokers = kafka.brokers,
                instance = kafka.instance,
                "log on Kafka opened"
            );
            Arc::new(log)
        }
    })
}

fn kafka_settings(kafka: &KafkaConfig) -> KafkaSettings {
    KafkaSettings {
        prefix: kafka.prefix.clone(),
        replication: kafka.replication,
        insync_min: kafka.insync_min,
        allow_unsafe_topics: kafka.allow_unsafe_topics,
        client: kafka.client.clone(),
        // Log time is the brokers': instances have clocks of their own.
        append_time_topics: [onhand_flows::topics::COMMANDS.to_owned()].into(),
        ..KafkaSettings::new(&kafka.brokers, &kafka.instance)
    }
}

/// What the log there is, without opening it; `None` where there is none.
///
/// # Errors
/// [`RunError`] when what is there cannot be read.
pub fn look_at_log(engine: &LogEngine, data: &Path) -> Result<Option<Glimpse>, RunError> {
    match engine {
        LogEngine::Journal(_) => match JournalReader::open(&data.join("journal")) {
            Ok(reader) => Ok(Some(reader.glimpse())),
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        },
        LogEngine::Kafka(kafka) => Ok(KafkaLog::look(&kafka_settings(kafka))?),
    }
}

fn open(config: &Config) -> Result<Node, RunError> {
    let log = open_log(&config.engine, &config.data, Opening::Serve)?;
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let node = NodeConfig {
        partitions: config.partitions,
        settings: Settings {
            truth: config
                .truth
                .iter()
                .map(|source| Source::from(source.clone()))
                .collect(),
            known_only: config.known_only,
            ids_age_ms: ms(config.ids_age),
            ids_max: config.ids_max,
            horizon_ms: ms(config.horizon),
            ask_timeout_ms: ms(config.answer_timeout),
            ..Settings::default()
        },
        worker: WorkerConfig {
            threads: config.workers,
            snapshot_dir: Some(config.data.join("snapshots")),
            ..WorkerConfig::default()
        },
        restored: |partition, restored| tracing::debug!(partition, ?restored, "partition restored"),
        ..NodeConfig::default()
    };
    Ok(onhand_flows::start(log, &node)?)
}
