//! A life: putting the pieces together (what the node runs on, the flows over it, what stands in front
//! and beside), how it ends, and the end of it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::{Node, NodeConfig};
use onhand_ledger::{Settings, Source};
use onhand_log::cluster::{Cluster, Ended};
use onhand_streams::{AtStart, Publish, WorkerConfig};
use tokio::sync::watch;
use tokio::time::Instant;

use super::RunError;
use crate::app::App;
use crate::config::{Config, LogEngine, ViewChoice};
use crate::engine::Engine;
use crate::feed::hub::Hub;
use crate::ground::Ground;
use crate::intake::spool::SpoolDir;
use crate::placement::{Placement, Running};
use crate::residents::views::Views;
use crate::residents::{Chosen, Resident, Residents, ResidentsError};

type Open = dyn Fn() -> Result<Box<dyn Ground>, RunError> + Send + Sync;

/// What it takes to begin a life.
pub(super) struct Begin {
    pub(super) config: Config,
    pub(super) address: SocketAddr,
    pub(super) open: Arc<Open>,
}

/// Why a life ends.
pub(super) enum End {
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
pub(super) struct Life {
    node: Node,
    pub(super) app: Arc<App>,
    hub: Arc<Hub>,
    residents: Arc<Residents>,
    /// Where the log is shared.
    moving: Option<Running>,
    stop: watch::Sender<bool>,
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
            let (node, views) = start(&config, ground.as_ref())?;
            let cluster = ground.join(node.partitions, &advertised)?;
            Ok::<_, RunError>((node, views, cluster, ground))
        });
        let (node, views, cluster, ground) = opened
            .await
            .map_err(|error| RunError::Thread(std::io::Error::other(error)))??;
        self.put_together(node, views, cluster, ground.as_ref())
    }

    fn put_together(
        &self,
        node: Node,
        views: Option<Arc<Views>>,
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
        let residents = Arc::new(start_residents(config, &engine, views)?);
        let beside: Arc<dyn Resident> = Arc::<Residents>::clone(&residents);
        let placement = Placement::new(
            Box::new(node.opener()),
            vec![beside],
            cluster,
            Arc::clone(&engine.opening),
            config.standbys.into(),
            config.warm_up,
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
    pub(super) async fn first_life(
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
    pub(super) async fn life_again(&self) -> Result<Life, RunError> {
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
    pub(super) async fn end(&mut self) -> End {
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
    pub(super) async fn leave(&mut self) {
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

    /// Says that it is not ready, and ends what waits for more: feeds and streams.
    pub(super) fn take_no_more(&self) {
        self.app.not_ready();
        let _ = self.stop.send_replace(true);
    }

    /// Ends what has lost its place: nothing of it can be written any more.
    pub(super) async fn abandon(self) {
        self.take_no_more();
        if let Err(error) = self.finish().await {
            tracing::info!(%error, "the life that ended could not end cleanly");
        }
    }

    /// Ends the node, when nothing is asked of it any more.
    pub(super) async fn finish(self) -> Result<(), RunError> {
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
fn start_residents(
    config: &Config,
    engine: &Engine,
    views: Option<Arc<Views>>,
) -> Result<Residents, RunError> {
    let chosen = chosen(config);
    let started = Residents::start(&engine.log, engine.partitions, chosen, views);
    started.map_err(|error| match error {
        ResidentsError::Topic(error) => RunError::Start(error.into()),
        ResidentsError::Thread(error) => RunError::Thread(error),
    })
}

fn chosen(config: &Config) -> Chosen {
    let on_kafka = matches!(config.engine, LogEngine::Kafka(_));
    Chosen {
        inbox: config.inbox.unwrap_or(on_kafka),
        views: config.views.unwrap_or(if on_kafka {
            ViewChoice::ALL
        } else {
            ViewChoice::NONE
        }),
        pack_views: config.pack_views,
        // On Kafka what the lane writes joins the transaction under way, if it comes before that ends. A
        // journal would write and sync for each append, and decisions wait for that.
        views_pace: if on_kafka {
            Duration::ZERO
        } else {
            Duration::from_millis(5)
        },
        command_bytes: config.limits.body_bytes,
    }
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

/// The node, and the views that it writes.
fn start(config: &Config, ground: &dyn Ground) -> Result<(Node, Option<Arc<Views>>), RunError> {
    let log = ground.log();
    let partitions = onhand_flows::partitions_of(log.as_ref(), config.partitions)?;
    let views = Views::new(&log, partitions, chosen(config));
    let views = views.map_err(|error| RunError::Start(error.into()))?;
    // Where others share the log an append costs round trips, and views that follow decisions cost as many
    // again. A journal has none to save, and there a thread of their own takes rendering off the decisions.
    let publish = views.as_ref().filter(|_| ground.is_shared());
    let publish = publish.map(|views| Arc::<Views>::clone(views) as Arc<dyn Publish>);
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
            publish,
            snapshot_dir: Some(config.data.join("snapshots")),
            ..WorkerConfig::default()
        },
        restored: |partition, restored| tracing::debug!(partition, ?restored, "partition restored"),
        ..NodeConfig::default()
    };
    Ok((onhand_flows::start(log, &node)?, views))
}
