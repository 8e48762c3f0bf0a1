//! A node: the stock flows running over a log.

use std::fmt;
use std::sync::Arc;

use onhand_ledger::{Home, Settings, State};
use onhand_log::{Log, Topic, TopicError, TopicId, TopicPartition, partition_of};
use onhand_streams::{
    Opener, RestoreError, Restored, Standbys, SubmitError, Topics, Worker, WorkerConfig,
    WorkerHandle, owner_of,
};
use thiserror::Error;

use crate::stock::{Decide, Stock};
use crate::topics;

/// How a node is run.
#[derive(Clone)]
pub struct NodeConfig {
    /// For a new log; an existing one keeps its count. `None`: 16, or what the log has.
    pub partitions: Option<u16>,
    pub settings: Settings,
    /// Says too whether all partitions are opened at the start or none
    /// ([`WorkerConfig::at_start`]), and which of several instances it is.
    pub worker: WorkerConfig,
    /// [`onhand_ledger::decide`], but in tests that make it fail.
    pub decide: Decide,
    /// Told of each partition as it is restored: its number and what that took.
    pub restored: fn(u16, Restored),
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            partitions: None,
            settings: Settings::default(),
            worker: WorkerConfig::default(),
            decide: onhand_ledger::decide,
            restored: |_, _| (),
        }
    }
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("partitions", &self.partitions)
            .field("settings", &self.settings)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// The partition count of a new log. More than any node here has cores, few enough that a quiet group
/// is not scattered.
pub const PARTITIONS_DEFAULT: u16 = 16;

/// The name of the stock flows: the owner of partition 3 is `stock/3`.
pub const STOCK: &str = "stock";
/// The name of what takes commands from [`topics::INBOX`].
pub const GATE: &str = "gate";
/// The name of what publishes decisions for others.
pub const VIEWS: &str = "views";

/// Every owner that consumes, with the partition that it reads, in a log that has those topics. All that
/// a node keeps positions for must stand here: a copy of a log takes them over by this list.
pub fn owners(topics: &[Topic]) -> Vec<(String, TopicPartition)> {
    let reads = [
        (STOCK, topics::COMMANDS),
        (GATE, topics::INBOX),
        (VIEWS, topics::DECISIONS),
    ];
    let mut owners = Vec::new();
    for (name, input) in reads {
        let Some(input) = topics.iter().find(|topic| topic.spec.name == input) else {
            continue;
        };
        let topic = input.id;
        owners.extend((0..input.spec.partitions).map(|partition| {
            let at = TopicPartition { topic, partition };
            (owner_of(name, partition), at)
        }));
    }
    owners
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("this log has {existing} partitions, not {asked}; the count of a log never changes")]
    Partitions { existing: u16, asked: u16 },
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    pub handle: WorkerHandle<Stock>,
    pub log: Arc<dyn Log>,
    pub partitions: u16,
    /// `stock.decisions`.
    pub decisions: TopicId,
    worker: Worker<Stock>,
}

/// How many partitions a node on that log has: as many as the log has, and in a new one those asked for or
/// [`PARTITIONS_DEFAULT`].
///
/// # Errors
/// [`StartError::Partitions`] when the log has others than those asked for.
pub fn partitions_of(log: &dyn Log, asked: Option<u16>) -> Result<u16, StartError> {
    let mut topics = log.topics().into_iter();
    let existing = topics
        .find(|topic| topic.spec.name == topics::COMMANDS)
        .map(|topic| topic.spec.partitions);
    match (existing, asked) {
        (Some(existing), Some(asked)) if existing != asked => {
            Err(StartError::Partitions { existing, asked })
        }
        (Some(existing), _) => Ok(existing),
        (None, asked) => Ok(asked.unwrap_or(PARTITIONS_DEFAULT)),
    }
}

/// Creates the topics where they are missing, starts, and opens their partitions where
/// [`WorkerConfig::at_start`] says so.
///
/// # Errors
/// [`StartError`] says which topic or partition and what to do.
pub fn start(log: Arc<dyn Log>, config: &NodeConfig) -> Result<Node, StartError> {
    let partitions = partitions_of(log.as_ref(), config.partitions)?;
    let [commands, decisions, state, dead_letters] = topics::specs(partitions);
    let topics = Topics {
        input: log.create_topic(&commands)?,
        redo: log.create_topic(&decisions)?,
        changelog: log.create_topic(&state)?,
    };
    let dead_letters = log.create_topic(&dead_letters)?;
    let (settings, decide) = (config.settings.clone(), config.decide);
    let make = move |partition| {
        let home = Home {
            partition,
            partitions,
            partition_of,
        };
        Stock::new(
            State::new(home, settings.clone()),
            partition,
            dead_letters,
            decide,
        )
    };
    let worker = Worker::start(
        &log,
        STOCK,
        topics,
        partitions,
        make,
        &config.worker,
        config.restored,
    )?;
    Ok(Node {
        handle: worker.handle(),
        log,
        partitions,
        decisions: topics.redo,
        worker,
    })
}

impl Node {
    /// Takes the partition and restores it: [`Opener::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(&self, partition: u16) -> Result<Restored, RestoreError> {
        self.worker.open(partition)
    }

    /// Finishes the partition and gives it up: [`Opener::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self, partition: u16) -> Result<(), SubmitError> {
        self.worker.close(partition)
    }

    /// What follows partitions that others own: [`Worker::standbys`].
    pub fn standbys(&self) -> Standbys<Stock> {
        self.worker.standbys()
    }

    /// What opens and closes partitions, for a thread of its own: a cheap clone. It refuses once the
    /// node has stopped.
    pub fn opener(&self) -> Opener<Stock> {
        self.worker.opener()
    }

    /// Takes nothing more, finishes what was taken, gives up all names, writes snapshots, and closes the
    /// log. Nobody should be opening or closing a partition meanwhile.
    ///
    /// # Errors
    /// What kept it from ending cleanly.
    pub fn stop(self) -> Result<(), SubmitError> {
        self.worker.stop()?;
        self.log
            .close()
            .map_err(|error| SubmitError::Stopped(error.to_string()))
    }
}
