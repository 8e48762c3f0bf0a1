//! Figures of the HTTP side and of the engine. No label names a SKU, ever.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;

/// Counters that requests advance. What the engine counts itself is read when somebody asks.
#[derive(Default)]
pub(crate) struct Metrics {
    received: AtomicU64,
    refused: AtomicU64,
    cut_off: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Commands handed to their owners.
    pub(crate) fn received(&self, count: u64) {
        self.received.fetch_add(count, Ordering::Relaxed);
    }

    /// Commands that did not reach the log.
    pub(crate) fn refused(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
    }

    /// Feed readers cut off for being slow.
    pub(crate) fn cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

/// All figures as they are now.
pub(crate) fn render(app: &App) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("onhand");
    let log = app.engine.log.stats();
    let worker = app.engine.stats();
    let of = &app.metrics;
    let counters = [
        (
            "events_received",
            "Commands handed to their owners",
            of.received.load(Ordering::Relaxed),
        ),
        (
            "events_refused",
            "Commands that broke a rule of their form and did not reach the log",
            of.refused.load(Ordering::Relaxed),
        ),
        ("log_appends", "Appends accepted by the log", log.appends),
        (
            "log_syncs",
            "Groups of appends written and synced",
            log.syncs,
        ),
        (
            "worker_rounds",
            "Rounds of the owners' threads",
            worker.rounds,
        ),
        (
            "worker_panics",
            "Panics caught while deciding; each parks its command",
            worker.panics,
        ),
        (
            "feed_cut_off",
            "Feed readers cut off because their connection took nothing",
            of.cut_off.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let bytes = [
        ("log", "Records held, all topics together", log.bytes),
        ("log_disk", "What the log occupies on disk", log.disk_bytes),
        ("inbox", "What waits for the owners", worker.inbox_bytes),
        (
            "in_flight",
            "Lines of streams on their way to a decision",
            in_flight(app),
        ),
    ];
    for (name, help, value) in bytes {
        let gauge = ConstGauge::<i64>::new(value.try_into().unwrap_or(i64::MAX));
        registry.register_with_unit(name, help, Unit::Bytes, gauge);
    }
    let used = |max: usize, free: usize| (max - free.min(max)) as u64;
    let gauges = [
        (
            "log_appends_pending",
            "Appends whose ending is not known yet",
            log.pending,
        ),
        (
            "log_out_of_space",
            "1 while new work is refused for want of space",
            log.out_of_space.into(),
        ),
        (
            "tickets_open",
            "Requests that wait for an outcome",
            worker.open_tickets,
        ),
        (
            "partitions_stopped",
            "Partitions that need somebody to look",
            worker.stopped_tasks,
        ),
        (
            "feed_readers",
            "Open feeds",
            used(app.limits.feed_readers, app.readers.available_permits()),
        ),
        (
            "feed_readers_live",
            "Open feeds that have caught up",
            app.hub.readers() as u64,
        ),
        (
            "streams",
            "Open bulk streams",
            used(app.limits.streams, app.streams.available_permits()),
        ),
        (
            "ready",
            "1 while the node takes work",
            app.is_ready().into(),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = ConstGauge::<i64>::new(value.try_into().unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn in_flight(app: &App) -> u64 {
    let free = app.in_flight.available_permits();
    (app.limits.in_flight_bytes - free.min(app.limits.in_flight_bytes)) as u64
}
