//! The way from HTTP to the node's owners and its log.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use onhand_flows::Stock;
use onhand_log::{Log, Timestamp, partition_of};
use onhand_streams::{SubmitError, Ticket, WorkerHandle, WorkerStats};
use tokio::sync::{Semaphore, oneshot};
use tokio::task;

use crate::decisions::{DecisionError, DecisionLog};
use crate::position::Position;
use crate::wire::outcome::Origin;
use crate::wire::problem::{Kind, Problem};

/// What every request needs of the node.
pub(crate) struct Engine {
    handle: WorkerHandle<Stock>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) decisions: Arc<DecisionLog>,
    pub(crate) epoch: u64,
    pub(crate) partitions: u16,
    scans: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// The connection that sent the last single command.
    last_single: Mutex<Option<task::Id>>,
}

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
    pub(crate) fn new(node: &onhand_flows::Node, scans: usize) -> Self {
        let log = Arc::clone(&node.log);
        let decisions = DecisionLog::new(Arc::clone(&log), node.decisions, node.partitions);
        Self {
            handle: node.handle.clone(),
            epoch: log.epoch(),
            log,
            decisions: Arc::new(decisions),
            partitions: node.partitions,
            scans: Arc::new(Semaphore::new(scans)),
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

    /// Runs `query` on the owner of the partition; only what is durable is seen.
    pub(crate) async fn query<R: Send + 'static>(
        &self,
        partition: u16,
        query: impl FnOnce(&mut Stock) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        let (tell, told) = oneshot::channel();
        self.handle
            // Nobody listens any more when the request was dropped.
            .query(partition, query, move |result| drop(tell.send(result)))
            .map_err(|error| of_submit(&error))?;
        told.await
            .map_err(|_| stopped())?
            .map_err(|error| of_submit(&error))
    }

    /// Runs `query` on every owner; the results by partition.
    pub(crate) async fn query_all<R: Send + 'static>(
        &self,
        query: impl Fn(u16, &mut Stock) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>, Problem> {
        let query = Arc::new(query);
        let mut told = Vec::with_capacity(usize::from(self.partitions));
        for partition in 0..self.partitions {
            let (tell, listen) = oneshot::channel();
            let query = Arc::clone(&query);
            self.handle
                .query(
                    partition,
                    move |stock| query(partition, stock),
                    move |result| drop(tell.send(result)),
                )
                .map_err(|error| of_submit(&error))?;
            told.push(listen);
        }
        let mut results = Vec::with_capacity(told.len());
        for listen in told {
            let result = listen.await.map_err(|_| stopped())?;
            results.push(result.map_err(|error| of_submit(&error))?);
        }
        Ok(results)
    }

    /// The newest durable position of all partitions.
    pub(crate) async fn newest(&self) -> Result<Position, Problem> {
        let numbers = self.query_all(|_, stock| stock.state().number()).await?;
        Ok(Position::whole(self.epoch, numbers))
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

fn stopped() -> Problem {
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
    internal(error)
}

pub(crate) fn of_submit(error: &SubmitError) -> Problem {
    let kind = match error {
        SubmitError::Busy => Kind::BUSY,
        SubmitError::NoSpace => Kind::NO_SPACE,
        SubmitError::Stopped(_) | SubmitError::Moved(_) => Kind::STOPPED,
        SubmitError::TooLarge { .. } => Kind::TOO_LARGE,
        SubmitError::UnknownPartition(_) => Kind::DAMAGED,
    };
    Problem::new(kind, error.to_string())
}
