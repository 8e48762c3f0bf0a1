//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::config::Limits;
use crate::engine::Engine;
use crate::feed::hub::Hub;
use crate::intake::spool::SpoolDir;
use crate::metrics::Metrics;
use crate::placement::Placement;
use crate::residents::Residents;

/// The node as HTTP sees it.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) hub: Arc<Hub>,
    pub(crate) residents: Arc<Residents>,
    pub(crate) spool: SpoolDir,
    /// Places for bulk streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Places for feed readers.
    pub(crate) readers: Arc<Semaphore>,
    /// Bytes of lines on their way to a decision.
    pub(crate) in_flight: Arc<Semaphore>,
    /// The same of packs that other instances handed over.
    pub(crate) handed_over: Arc<Semaphore>,
    pub(crate) placement: Arc<Placement>,
    /// For what begins on a thread of the engine.
    pub(crate) runtime: Handle,
    /// Turns true when the node shuts down.
    pub(crate) stop: watch::Receiver<bool>,
    ready: AtomicBool,
}

impl App {
    pub(crate) fn new(
        engine: Arc<Engine>,
        limits: Limits,
        hub: Arc<Hub>,
        residents: Arc<Residents>,
        spool: SpoolDir,
        placement: Arc<Placement>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(limits.streams)),
            readers: Arc::new(Semaphore::new(limits.feed_readers)),
            in_flight: Arc::new(Semaphore::new(limits.in_flight_bytes)),
            handed_over: Arc::new(Semaphore::new(limits.in_flight_bytes)),
            placement,
            runtime: Handle::current(),
            metrics: Metrics::default(),
            ready: AtomicBool::new(true),
            engine,
            limits,
            hub,
            residents,
            spool,
            stop,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Whether this instance is a member and has open what is assigned to it.
    pub(crate) fn is_placed(&self) -> bool {
        !self.engine.is_shared || self.placement.standing().is_settled
    }

    pub(crate) fn not_ready(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }
}
