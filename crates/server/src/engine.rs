//! The way from HTTP to the node's owners and its log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use onhand_flows::Stock;
use onhand_log::cluster::Cluster;
use onhand_log::{Log, Timestamp, View, partition_of};
use onhand_streams::{Standbys, SubmitError, Ticket, WorkerHandle, WorkerStats};
use tokio::sync::{Semaphore, oneshot};
use tokio::task;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::decisions::{DecisionError, DecisionLog};
use crate::peers::Patience;
use crate::peers::pool::Peers;
use crate::peers::question::Number;
use crate::position::Position;
use crate::stale::Stale;
use crate::wire::outcome::Origin;
use crate::wire::problem::{Kind, Problem};

/// What every request needs of the node.
pub(crate) struct Engine {
    handle: WorkerHandle<Stock>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) decisions: Arc<DecisionLog>,
    pub(crate) epoch: u64,
    pub(crate) partitions: u16,
    /// Who else is there, and who owns what.
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) peers: Arc<Peers>,
    /// This instance's name.
    pub(crate) instance: Arc<str>,
    /// Whether other instances may share the log.
    pub(crate) is_shared: bool,
    /// While somebody reads it, no partition opens here.
    pub(crate) opening: Arc<RwLock<()>>,
    /// Partitions of others that are followed here.
    pub(crate) standbys: Standbys<Stock>,
    /// How many follow each partition.
    pub(crate) standby_count: usize,
    /// How long the owner of a partition is looked for.
    pub(crate) forward_wait: Duration,
    scans: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// The connection that sent the last single command.
    last_single: Mutex<Option<task::Id>>,
}

/// How long a feed waits for the log here to show what its owner elsewhere has said: the time in which
/// a follower of the log catches up.
const SHOWN_WAIT: Duration = Duration::from_secs(5);

/// Lookups of single decisions at a time. They are short, and must not queue behind scans.
const LOOKUPS: usize = 32;

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(
        node: &onhand_flows::Node,
        cluster: Arc<dyn Cluster>,
        instance: Arc<str>,
        is_shared: bool,
        config: &Config,
    ) -> Self {
        let limits = &config.limits;
        let log = Arc::clone(&node.log);
        let decisions = DecisionLog::new(
            Arc::clone(&log),
            node.decisions,
            node.partitions,
            View::Durable,
        );
        Self {
            handle: node.handle.clone(),
            epoch: log.epoch(),
            log,
            decisions: Arc::new(decisions),
            partitions: node.partitions,
            peers: Arc::new(Peers::new(Arc::clone(&cluster))),
            instance,
            cluster,
            is_shared,
            opening: Arc::default(),
            standbys: node.standbys(),
            standby_count: config.standbys.into(),
            forward_wait: limits.forward_wait,
            scans: Arc::new(Semaphore::new(limits.scans)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            last_single: Mutex::new(None),
        }
    }

    pub(crate) fn partition_of(&self, key: &str) -> u16 {
        partition_of(key.as_bytes(), self.partitions)
    }

    pub(crate) fn origin(&self, partition: u16) -> Origin {
        Origin {
            epoch: self.epoch,
            partition,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.log.now()
    }

    pub(crate) fn stats(&self) -> WorkerStats {
        self.handle.stats()
    }

    /// Why the owners take nothing more, if they stopped by themselves.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.handle.stopped()
    }

    /// Hands packs to their owners. See [`WorkerHandle::submit`].
    pub(crate) fn submit(
        &self,
        packs: Vec<(u16, Vec<u8>)>,
        ticket: &Arc<dyn Ticket>,
    ) -> Result<(), SubmitError> {
        self.handle.submit(packs, ticket)
    }

    /// Hands over one command. A connection that sent the last one too is, as far as single commands go,
    /// alone: then nothing is gained by waiting for the worker, which would only sync what others
    /// send together with this, and its own thread does the round.
    pub(crate) fn submit_single(
        &self,
        partition: u16,
        pack: Vec<u8>,
        ticket: &Arc<dyn Ticket>,
    ) -> Result<(), SubmitError> {
        let packs = vec![(partition, pack)];
        // A connection is one task, for as long as it lives.
        let connection = task::try_id();
        let mut last = self
            .last_single
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let alone = connection.is_some() && *last == connection;
        *last = connection;
        drop(last);
        if alone {
            self.handle.submit_here(packs, ticket)
        } else {
            self.handle.submit(packs, ticket)
        }
    }

    /// Whether this instance decides for the partition now.
    pub(crate) fn is_open(&self, partition: u16) -> bool {
        self.handle.is_open(partition)
    }

    /// The problem that sends a request on, unless the partition is open here and nobody else's.
    pub(crate) fn must_be_here(&self, partition: u16) -> Result<(), Problem> {
        if self.is_open(partition) && self.cluster.unheard().is_none() {
            Ok(())
        } else {
            Err(of_submit(&SubmitError::Moved(partition)))
        }
    }

    /// Runs `query` on the owner of the partition, if that is here; only what is durable is seen.
    pub(crate) fn query<R: Send + 'static>(
        &self,
        partition: u16,
        query: impl FnOnce(&mut Stock) -> R + Send + 'static,
        reply: impl FnOnce(Result<R, SubmitError>) + Send + 'static,
    ) -> Result<(), SubmitError> {
        self.handle.query(partition, query, reply)
    }

    /// What the owner here says to a query. While the log recovers it says nothing: that is waited for no
    /// longer than an owner is looked for.
    pub(crate) async fn hear<R>(
        &self,
        partition: u16,
        listen: oneshot::Receiver<R>,
        until: Instant,
    ) -> Result<R, Problem> {
        match timeout_at(until, listen).await {
            Ok(said) => said.map_err(|_| stopped()),
            Err(_) => {
                let seconds = self.forward_wait.as_secs_f32();
                let why = format!(
                    "partition {partition} did not answer within {seconds} s, as while the log \
                     recovers; try again"
                );
                Err(Problem::new(Kind::BUSY, why))
            }
        }
    }

    /// Runs `query` on every partition that is open here.
    pub(crate) async fn query_open<R: Send + 'static>(
        &self,
        query: impl Fn(&mut Stock) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, Problem> {
        let mut told = Vec::new();
        for partition in 0..self.partitions {
            let (tell, listen) = oneshot::channel();
            match self.query(partition, query.clone(), move |result| {
                drop(tell.send(result));
            }) {
                Ok(()) => told.push((partition, listen)),
                Err(SubmitError::Moved(_)) => {}
                Err(error) => return Err(of_submit(&error)),
            }
        }
        let until = Instant::now() + self.forward_wait;
        let mut results = Vec::with_capacity(told.len());
        for (partition, listen) in told {
            match self.hear(partition, listen, until).await? {
                Ok(result) => results.push(result),
                Err(SubmitError::Moved(_)) => {}
                Err(error) => return Err(of_submit(&error)),
            }
        }
        Ok(results)
    }

    /// The newest durable position of all partitions. Of those that are open elsewhere it is where the log
    /// ends here, so that nobody needs to be alive for it.
    pub(crate) async fn newest(&self) -> Result<Position, Problem> {
        let mut numbers = BTreeMap::new();
        let all = (0..self.partitions).collect();
        let elsewhere = self
            .ask_here(all, &Number, &mut numbers, &Stale::default())
            .await?;
        if !elsewhere.is_empty() {
            let read = self.lookup(move |log| {
                let newest = |partition| Ok((partition, log.newest(partition)?));
                elsewhere
                    .into_iter()
                    .map(newest)
                    .collect::<Result<Vec<_>, _>>()
            });
            numbers.extend(read.await?);
        }
        Ok(Position::whole(self.epoch, numbers.into_values()))
    }

    /// Waits until the log here shows that decision of the partition, for a few seconds: what another
    /// instance decided and answered may be a moment away, and what this one did may stand behind a
    /// transaction that another left open. Says whether it does.
    pub(crate) async fn shows(&self, partition: u16, number: u64) -> Result<bool, Problem> {
        let mut patience = Patience::new(SHOWN_WAIT);
        loop {
            if self.lookup(move |log| log.shows(partition, number)).await? {
                return Ok(true);
            }
            if !patience.goes_on().await {
                return Ok(false);
            }
        }
    }

    /// As [`Engine::shows`], for an answer that cannot do without.
    pub(crate) async fn must_show(&self, partition: u16, number: u64) -> Result<(), Problem> {
        if self.shows(partition, number).await? {
            return Ok(());
        }
        Err(Problem::new(
            Kind::BUSY,
            format!(
                "the log here does not show decision {number} of partition {partition} yet; try again"
            ),
        ))
    }

    /// Runs what waits a moment for a lock of a standby where it may. Bounded as lookups are.
    pub(crate) async fn beside<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&Standbys<Stock>) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        let slot = Arc::clone(&self.lookups).acquire_owned().await;
        let slot = slot.map_err(|_| stopped())?;
        let standbys = self.standbys.clone();
        let asked = task::spawn_blocking(move || {
            let answer = ask(&standbys);
            drop(slot);
            answer
        });
        asked
            .await
            .map_err(|error| internal(format!("a read did not end: {error}")))
    }

    /// Runs a read that goes through the log on a thread where it may block. Their number is bounded.
    pub(crate) async fn scan<R: Send + 'static>(
        &self,
        read: impl FnOnce(&DecisionLog) -> Result<R, DecisionError> + Send + 'static,
    ) -> Result<R, Problem> {
        self.blocking(&self.scans, read).await
    }

    /// As [`Engine::scan`], for a few decisions whose numbers are known.
    pub(crate) async fn lookup<R: Send + 'static>(
        &self,
        read: impl FnOnce(&DecisionLog) -> Result<R, DecisionError> + Send + 'static,
    ) -> Result<R, Problem> {
        self.blocking(&self.lookups, read).await
    }

    async fn blocking<R: Send + 'static>(
        &self,
        slots: &Arc<Semaphore>,
        read: impl FnOnce(&DecisionLog) -> Result<R, DecisionError> + Send + 'static,
    ) -> Result<R, Problem> {
        let slot = Arc::clone(slots)
            .acquire_owned()
            .await
            .map_err(|_| stopped())?;
        let decisions = Arc::clone(&self.decisions);
        let read = task::spawn_blocking(move || {
            let result = read(&decisions);
            drop(slot);
            result
        });
        read.await
            .map_err(|error| internal(format!("a read did not end: {error}")))?
            .map_err(|error| of_decisions(&error))
    }
}

pub(crate) fn stopped() -> Problem {
    Problem::new(
        Kind::STOPPED,
        "the node is shutting down; try again when it is up",
    )
}

pub(crate) fn internal(detail: impl std::fmt::Display) -> Problem {
    tracing::error!(%detail, "request failed");
    Problem::new(Kind::DAMAGED, format!("{detail}; look into the node's log"))
}

pub(crate) fn of_decisions(error: &DecisionError) -> Problem {
    match error {
        DecisionError::Behind { .. } => {
            let detail = format!("{error}; send it again with the same id");
            Problem::new(Kind::UNKNOWN_END, detail)
        }
        error => internal(error),
    }
}

pub(crate) fn of_submit(error: &SubmitError) -> Problem {
    let kind = match error {
        SubmitError::Busy => Kind::BUSY,
        SubmitError::NoSpace => Kind::NO_SPACE,
        SubmitError::Stopped(_) => Kind::STOPPED,
        SubmitError::TooLarge { .. } => Kind::TOO_LARGE,
        SubmitError::Unwanted => Kind::UNKNOWN_END,
        SubmitError::UnknownPartition(_) => Kind::DAMAGED,
        SubmitError::Moved(partition) => {
            let mut problem = Problem::new(Kind::MOVED, error.to_string());
            problem.moved = Some(*partition);
            return problem;
        }
    };
    Problem::new(kind, error.to_string())
}
