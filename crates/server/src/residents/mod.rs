//! What a node does for other programs on its log, beside deciding: it takes commands that they wrote
//! to `stock.inbox`, and writes JSON views of the decisions for them to read.
//!
//! ```text
//!  others ─► stock.inbox ─► gate ─► stock.commands ─► owners ─► stock.decisions ─► views ─► stock.changes,
//!                            └────► dead-letters                                            stock.outcomes,
//!                                                                             stock.levels, stock.reservations
//! ```
//!
//! On Kafka most of the views are written by the owners themselves, with their decisions ([`views`]).
//!
//! Both are residents: for each partition, its owner reads one topic from a consumed position and
//! appends what it makes of it together with the position behind it, so that each record read has its
//! effect once. [`lanes`] does that for both; [`gate`] and [`views`] say what is made of what.

pub(crate) mod gate;
pub(crate) mod lanes;
pub(crate) mod views;

use std::sync::Arc;
use std::time::Duration;

use onhand_flows::topics;
use onhand_log::{Log, TopicError};

use self::gate::Gate;
use self::lanes::{Figures, Lanes};
use self::views::Views;
use crate::config::ViewChoice;

/// Something that runs beside a partition wherever that is open: opened after it, closed before it. Called on
/// threads of their own, for one partition at a time; `close` may take its time.
pub(crate) trait Resident: Send + Sync {
    /// Begins with that partition: takes its name there, in the background, and goes on from where the
    /// last owner's appends ended. Nothing happens where it is open already.
    fn open(&self, partition: u16);

    /// Ends with that partition: returns when everything it appended has ended and its name is given
    /// up. Nothing happens where it is not open.
    fn close(&self, partition: u16);
}

/// Why the residents did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidentsError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The residents of a node: none, one or both.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    pub(crate) gate: Option<Lanes>,
    pub(crate) views: Option<Lanes>,
}

/// Which residents a node has, and their bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    pub(crate) inbox: bool,
    pub(crate) views: ViewChoice,
    /// Changes and outcomes go as many lines in one record.
    pub(crate) pack_views: bool,
    /// How long decisions gather for one append of views under load; the first after a pause is published at
    /// once.
    pub(crate) views_pace: Duration,
    /// Bytes of one record of `stock.inbox` that are read as a command.
    pub(crate) command_bytes: usize,
}

impl Residents {
    /// Creates the topics of those chosen where they are missing, and starts their threads. No
    /// partition is open yet. `views` were made of the same choice.
    ///
    /// # Errors
    /// When a topic cannot be created, exists otherwise, or a thread cannot be started.
    pub(crate) fn start(
        log: &Arc<dyn Log>,
        partitions: u16,
        chosen: Chosen,
        views: Option<Arc<Views>>,
    ) -> Result<Self, ResidentsError> {
        let [commands, _, _, dead_letters] = topics::specs(partitions);
        let mut residents = Self::default();
        if chosen.inbox {
            let gate = Gate {
                log: Arc::clone(log),
                log_id: log.id(),
                inbox: log.create_topic(&topics::inbox_spec(partitions))?,
                commands: log.create_topic(&commands)?,
                dead_letters: log.create_topic(&dead_letters)?,
                partitions,
                command_bytes: chosen.command_bytes,
            };
            residents.gate = Some(Lanes::start(log, Arc::new(gate))?);
        }
        if let Some(views) = views {
            residents.views = Some(Lanes::start(log, views)?);
        }
        Ok(residents)
    }

    fn each(&self) -> impl Iterator<Item = &Lanes> {
        self.gate.iter().chain(&self.views)
    }

    /// Ends all of them, each with its partitions.
    pub(crate) fn stop(&self) {
        self.each().for_each(Lanes::stop);
    }

    /// Their figures, with the word that begins the names of each one's metrics.
    pub(crate) fn figures(&self) -> Vec<(&'static str, Figures)> {
        self.each()
            .map(|lanes| (lanes.name(), lanes.figures()))
            .collect()
    }
}

impl Resident for Residents {
    fn open(&self, partition: u16) {
        self.each().for_each(|lanes| lanes.open(partition));
    }

    fn close(&self, partition: u16) {
        self.each().for_each(|lanes| lanes.close(partition));
    }
}

#[cfg(test)]
mod tests;
