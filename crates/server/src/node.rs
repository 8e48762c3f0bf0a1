//! A process that serves: one listener, and one **life** after the other behind it.
//!
//! A life is a log, the node on it, and its membership among the instances that share the log. One that
//! was silent for too long has lost what it had to others: its life ends, and a new one begins, as
//! another member, while the listener stays.

mod life;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::StartError;
use onhand_log::journal::OpenError;
use onhand_streams::SubmitError;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use self::life::{Begin, End};
use crate::config::Config;
use crate::door::Door;
use crate::ground::{self, Ground};
use crate::http::listen;

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
    #[error(
        "other instances cannot reach this one at {0}; say where they can with --advertise HOST:PORT"
    )]
    Advertise(SocketAddr),
    #[error("cannot join the other instances: {0}")]
    Join(String),
    #[error(
        "another process runs as instance {0:?} and took this one's place; give each process a name \
         of its own with --instance"
    )]
    Replaced(String),
    #[error("the node ended by itself: {0}")]
    Ended(String),
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

impl RunError {
    /// Whether nobody who stores the log could be reached.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::OpenKafka(onhand_kafka::OpenError::Unreachable { .. })
        )
    }
}

/// Runs a node until `shutdown` resolves, then ends it cleanly: it takes no more, finishes what it
/// took, closes the feeds with their positions, and seals the log. `ready` is told the address once
/// the node listens. A node that has its log for itself is restored by then; one that shares it opens
/// what is assigned to it after that, and `/readyz` says when.
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
    let configured = config.clone();
    let open = move || ground::open(&configured);
    run_on(config, open, shutdown, ready).await
}

/// As [`run`], on what `open` gives: it is called for each life.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    open: impl Fn() -> Result<Box<dyn Ground>, RunError> + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    let refused = |error| RunError::Listen {
        address: config.listen,
        error,
    };
    // Bound before the log is touched: an address in use is the commonest slip.
    let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "there is no login yet: whoever reaches this address can read and change all stock, also \
             by the addresses that instances use among themselves"
        );
    }
    let begin = Begin {
        config: config.clone(),
        address,
        open: Arc::new(open),
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let Some(mut life) = begin.first_life(shutdown.as_mut()).await? else {
        return Ok(());
    };
    let door = Arc::new(Door::new(config.limits));
    door.lead_to(Some(Arc::clone(&life.app)));
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(listen::serve(listener, Arc::clone(&door), stopped));
    ready(address);
    let mut restarts = Restarts::default();
    let failed = loop {
        // Cancellation: neither loses anything.
        let end = tokio::select! {
            () = shutdown.as_mut() => End::Asked,
            end = life.end() => end,
        };
        match end {
            End::Asked => {
                life.leave().await;
                break None;
            }
            End::Stopped(why) => {
                tracing::error!(why, "the node ends");
                break Some(RunError::Ended(why));
            }
            End::Replaced => break Some(RunError::Replaced(life.app.engine.instance.to_string())),
            End::Silent => {
                tracing::error!("the others heard nothing from this instance and took what it had");
            }
            End::Fenced(why) => {
                if !restarts.is_allowed(Instant::now()) {
                    tracing::error!(
                        why,
                        "that happened too often in a short time; the node ends"
                    );
                    break Some(RunError::Ended(why));
                }
                tracing::error!(
                    why,
                    "the owners here stopped; their partitions are opened anew"
                );
            }
        }
        door.lead_to(None);
        life.abandon().await;
        // Cancellation: a life that was half begun owns nothing yet.
        let begun = tokio::select! {
            () = shutdown.as_mut() => None,
            begun = begin.life_again() => Some(begun),
        };
        match begun {
            Some(Ok(begun)) => life = begun,
            ended => {
                let _ = stop.send_replace(true);
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the listener ended badly");
                }
                return ended.map_or(Ok(()), |begun| begun.map(|_| ()));
            }
        }
        door.lead_to(Some(Arc::clone(&life.app)));
        tracing::info!("joined the other instances anew");
    };
    life.take_no_more();
    let _ = stop.send_replace(true);
    if let Err(error) = serving.await {
        tracing::error!(%error, "the listener ended badly");
    }
    door.lead_to(None);
    let ended = life.finish().await;
    match failed {
        // How it ended says more than that it did.
        Some(RunError::Ended(_)) if ended.is_err() => ended,
        Some(error) => Err(error),
        None => ended,
    }
}

/// How often a node whose owners stopped begins anew within that time.
const RESTARTS_MAX: usize = 5;
const RESTARTS_WITHIN: Duration = Duration::from_secs(120);

/// When the owners stopped.
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Notes one more; whether that is not too often.
    fn is_allowed(&mut self, now: Instant) -> bool {
        self.0
            .retain(|at| now.duration_since(*at) < RESTARTS_WITHIN);
        self.0.push_back(now);
        self.0.len() <= RESTARTS_MAX
    }
}
