//! Putting the pieces together: what the node runs on, the flows over it, HTTP in front.
//!
//! A process is one listener and one **life** after the other. A life is a log, the node on it, and its
//! membership among the instances that share the log. One that was silent for too long has lost what it
//! had to others: its life ends, and a new one begins, as another member, while the listener stays.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::{Node, NodeConfig, StartError};
use onhand_ledger::{Settings, Source};
use onhand_log::cluster::{Cluster, Ended};
use onhand_log::journal::OpenError;
use onhand_streams::{AtStart, SubmitError, WorkerConfig};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::App;
use crate::config::{Config, LogEngine, ViewChoice};
use crate::door::Door;
use crate::engine::Engine;
use crate::feed::hub::Hub;
use crate::ground::{self, Ground};
use crate::http::listen;
use crate::intake::spool::SpoolDir;
use crate::placement::{Placement, Running};
use crate::residents::{Chosen, Resident, Residents, ResidentsError};

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
    life.app.not_ready();
    let _ = life.stop.send_replace(true);
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

type Open = dyn Fn() -> Result<Box<dyn Ground>, RunError> + Send + Sync;

/// What it takes to begin a life.
struct Begin {
    config: Config,
    address: SocketAddr,
    open: Arc<Open>,
}

/// Why a life ends.
enum End {
    /// Somebody asked for it.
    Asked,
    /// The log or the owners stopped by themselves; says why.
    Stopped(String),
    /// The others gave it up, and have what it had.
    Silent,
    /// The owners here stopped though the others know this instance as alive: one of them fenced it, as
    /// it did not give a partition up in time, or a round panicked. Says which.
    Fenced(String),
    /// Another process has its name.
    Replaced,
}

/// A node on its log.
struct Life {
    node: Node,
    app: Arc<App>,
    hub: Arc<Hub>,
    residents: Arc<Residents>,
    /// Where the log is shared.
    moving: Option<Running>,
    stop: watch::Sender<bool>,
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

/// Between two tries to begin anew, and how long it is tried.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

impl Begin {
    async fn life(&self) -> Result<Life, RunError> {
        let (config, address, open) = (self.config.clone(), self.address, Arc::clone(&self.open));
        let opened = tokio::task::spawn_blocking(move || {
            let ground = open()?;
            let advertised = advertised(&config, address, ground.is_shared())?;
            let node = start(&config, ground.as_ref())?;
            let cluster = ground.join(node.partitions, &advertised)?;
            Ok::<_, RunError>((node, cluster, ground))
        });
        let (node, cluster, ground) = opened
            .await
            .map_err(|error| RunError::Thread(std::io::Error::other(error)))??;
        self.put_together(node, cluster, ground.as_ref())
    }

    fn put_together(
        &self,
        node: Node,
        cluster: Arc<dyn Cluster>,
        ground: &dyn Ground,
    ) -> Result<Life, RunError> {
        let config = &self.config;
        let spool = SpoolDir::open(&config.data).map_err(|error| RunError::Directory {
            path: config.data.clone(),
            error,
        })?;
        let (is_shared, instance) = (ground.is_shared(), ground.instance());
        let members = Arc::clone(&cluster);
        let engine = Engine::new(&node, members, instance, is_shared, config);
        let engine = Arc::new(engine);
        let hub = Hub::start(&engine, config.limits.feed_ring_bytes).map_err(RunError::Thread)?;
        let residents = Arc::new(start_residents(config, &engine)?);
        let beside: Arc<dyn Resident> = Arc::<Residents>::clone(&residents);
        let placement = Placement::new(
            Box::new(node.opener()),
            vec![beside],
            cluster,
            Arc::clone(&engine.opening),
            config.standbys.into(),
        );
        let open = node.handle.open_partitions();
        open.iter().for_each(|partition| residents.open(*partition));
        let moving = is_shared
            .then(|| Arc::clone(&placement).start(open))
            .transpose()
            .map_err(RunError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let app = Arc::new(App::new(
            engine,
            config.limits.clone(),
            Arc::clone(&hub),
            Arc::clone(&residents),
            spool,
            placement,
            stopped,
        ));
        Ok(Life {
            node,
            app,
            hub,
            residents,
            moving,
            stop,
        })
    }

    /// Waits for brokers that start beside this process. `None`: it was told to stop meanwhile.
    async fn first_life(
        &self,
        mut shutdown: impl Future<Output = ()> + Unpin,
    ) -> Result<Option<Life>, RunError> {
        let until = Instant::now() + self.config.start_wait;
        loop {
            let error = match self.life().await {
                Ok(life) => return Ok(Some(life)),
                Err(RunError::OpenKafka(error)) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error.into());
            }
            tracing::warn!(%error, left_s = left.as_secs(), "waiting for Kafka");
            // Cancellation: nothing is begun.
            tokio::select! {
                () = &mut shutdown => return Ok(None),
                () = tokio::time::sleep(AGAIN.min(left)) => {}
            }
        }
    }

    /// Tries for a while: what kept this instance silent may not have passed yet.
    async fn life_again(&self) -> Result<Life, RunError> {
        let until = Instant::now() + AGAIN_MAX;
        loop {
            match self.life().await {
                Err(error) if Instant::now() < until => {
                    tracing::warn!(%error, "could not begin anew; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                ended => return ended,
            }
        }
    }
}

/// What the other instances are told.
fn advertised(config: &Config, address: SocketAddr, is_shared: bool) -> Result<String, RunError> {
    match &config.advertise {
        Some(advertised) => Ok(advertised.clone()),
        None if is_shared && address.ip().is_unspecified() => Err(RunError::Advertise(address)),
        None => Ok(address.to_string()),
    }
}

impl Life {
    /// Resolves when it ends by itself.
    async fn end(&mut self) -> End {
        let app = Arc::clone(&self.app);
        let mut ended = app.placement.ended();
        let stopped = tokio::select! {
            end = told(&mut ended) => return end,
            () = failed(&app) => End::Stopped(why_stopped(&app)),
            why = owners_stopped(&app) => End::Fenced(why),
        };
        match (stopped, self.moving.is_some()) {
            (End::Fenced(why), false) => End::Stopped(why),
            // Whoever was fenced hears a moment before or after that its run has ended.
            (stopped, true) => tokio::time::timeout(HEARD, told(&mut ended))
                .await
                .unwrap_or(stopped),
            (stopped, false) => stopped,
        }
    }

    /// Tells the others, and gives up what it has: they answer for it as soon as they have it.
    async fn leave(&mut self) {
        let Some(moving) = &mut self.moving else {
            return;
        };
        if let Err(error) = self.app.engine.cluster.leave() {
            tracing::warn!(error, "the others were not told; they find out by silence");
        }
        let placement = Arc::clone(&moving.placement);
        let closing = tokio::task::spawn_blocking(move || placement.close_all());
        if let Err(error) = closing.await {
            tracing::error!(%error, "partitions were not closed");
        }
    }

    /// Ends what has lost its place: nothing of it can be written any more.
    async fn abandon(self) {
        self.app.not_ready();
        let _ = self.stop.send_replace(true);
        if let Err(error) = self.finish().await {
            tracing::info!(%error, "the life that ended could not end cleanly");
        }
    }

    /// Ends the node, when nothing is asked of it any more.
    async fn finish(self) -> Result<(), RunError> {
        let Self {
            node,
            app,
            hub,
            residents,
            moving,
            stop: _stop,
        } = self;
        hub.stop();
        drop(app);
        let ending = tokio::task::spawn_blocking(move || {
            if let Some(mut moving) = moving {
                moving.stop();
            }
            residents.stop();
            node.stop()
        });
        ending
            .await
            .map_err(|error| RunError::Thread(std::io::Error::other(error)))??;
        Ok(())
    }
}

/// What the node does for other programs on its log, as far as it was asked for.
fn start_residents(config: &Config, engine: &Engine) -> Result<Residents, RunError> {
    let on_kafka = matches!(config.engine, LogEngine::Kafka(_));
    let chosen = Chosen {
        inbox: config.inbox.unwrap_or(on_kafka),
        views: config.views.unwrap_or(if on_kafka {
            ViewChoice::ALL
        } else {
            ViewChoice::NONE
        }),
        pack_views: config.pack_views,
        command_bytes: config.limits.body_bytes,
    };
    Residents::start(&engine.log, engine.partitions, chosen).map_err(|error| match error {
        ResidentsError::Topic(error) => RunError::Start(error.into()),
        ResidentsError::Thread(error) => RunError::Thread(error),
    })
}

/// How long it takes to hear that a run has ended.
const HEARD: Duration = Duration::from_secs(5);

/// Resolves when the others have given this member up, or somebody has its name.
async fn told(ended: &mut watch::Receiver<Option<Ended>>) -> End {
    let heard = ended.wait_for(|ended| !matches!(ended, None | Some(Ended::Left)));
    match heard.await.map(|ended| *ended) {
        Ok(Some(Ended::Silent)) => End::Silent,
        Ok(_) => End::Replaced,
        // Nobody follows any more, which only happens once the node has ended.
        Err(_) => std::future::pending().await,
    }
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

/// What a log that stopped by itself says.
fn why_stopped(app: &App) -> String {
    // It is closed already, and says why.
    let closed = app.engine.log.close();
    closed.map_or_else(|why| why.to_string(), |()| "the log stopped".to_owned())
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

fn start(config: &Config, ground: &dyn Ground) -> Result<Node, RunError> {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let (at_start, instance) = if ground.is_shared() {
        (AtStart::OpenNone, ground.instance())
    } else {
        (AtStart::OpenAll, "".into())
    };
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
            at_start,
            instance,
            snapshot_dir: Some(config.data.join("snapshots")),
            ..WorkerConfig::default()
        },
        restored: |partition, restored| tracing::debug!(partition, ?restored, "partition restored"),
        ..NodeConfig::default()
    };
    Ok(onhand_flows::start(ground.log(), &node)?)
}
