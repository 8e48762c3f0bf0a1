//! Figures of the HTTP side and of the engine. No label names a SKU, ever.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;
use crate::engine::Engine;
use crate::intake::render::Totals;
use crate::wire::problem::Problem;
use onhand_ledger::Outcome;

/// Counters that requests advance. What the engine counts itself is read when somebody asks.
#[derive(Default)]
pub(crate) struct Metrics {
    received: AtomicU64,
    refused: AtomicU64,
    cut_off: AtomicU64,
    applied: AtomicU64,
    granted: AtomicU64,
    rejected: AtomicU64,
    duplicate: AtomicU64,
    invalid: AtomicU64,
    parked: AtomicU64,
    forwarded: AtomicU64,
    stale: AtomicU64,
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

    /// A request was answered by the owner of its key, elsewhere.
    pub(crate) fn forwarded(&self) {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
    }

    /// A read was answered, wholly or in part, by a standby.
    pub(crate) fn stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// A command's outcome was told.
    pub(crate) fn ended(&self, outcome: &Outcome<'_>) {
        let counter = match outcome {
            Outcome::Applied(_) => &self.applied,
            Outcome::Granted => &self.granted,
            Outcome::Rejected(_) => &self.rejected,
            Outcome::Duplicate { .. } => &self.duplicate,
            Outcome::Invalid(_) => &self.invalid,
            Outcome::Parked { .. } => &self.parked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Outcomes of a stream were told: those between the two totals.
    pub(crate) fn ended_many(&self, before: &Totals, after: &Totals) {
        for (counter, before, after) in [
            (&self.applied, before.applied, after.applied),
            (&self.granted, before.granted, after.granted),
            (&self.rejected, before.rejected, after.rejected),
            (&self.duplicate, before.duplicate, after.duplicate),
            (&self.invalid, before.invalid, after.invalid),
            (&self.parked, before.parked, after.parked),
        ] {
            counter.fetch_add(after - before, Ordering::Relaxed);
        }
    }

    /// Feed readers cut off for being slow.
    pub(crate) fn cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the owners hold, all partitions that are open here together.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Held {
    skus: u64,
    levels: u64,
    negative: u64,
    oversold: u64,
    reservations: u64,
    ids: u64,
    /// How far back every partition knows the names of commands, ms.
    ids_reach_ms: i64,
}

/// Asks every owner that is here.
pub(crate) async fn held(engine: &Engine) -> Result<Held, Problem> {
    let parts = engine
        .query_open(|stock| {
            let state = stock.state();
            Held {
                skus: state.sku_count() as u64,
                levels: state.position_count(),
                negative: state.negative_count(),
                oversold: state.oversold_count(),
                reservations: state.reservation_count() as u64,
                ids: state.ids_count(),
                ids_reach_ms: state.ids_reach_ms(),
            }
        })
        .await?;
    let none = Held {
        ids_reach_ms: i64::MAX,
        ..Held::default()
    };
    Ok(parts.into_iter().fold(none, |sum, part| Held {
        skus: sum.skus + part.skus,
        levels: sum.levels + part.levels,
        negative: sum.negative + part.negative,
        oversold: sum.oversold + part.oversold,
        reservations: sum.reservations + part.reservations,
        ids: sum.ids + part.ids,
        ids_reach_ms: sum.ids_reach_ms.min(part.ids_reach_ms),
    }))
}

/// All figures as they are now.
pub(crate) fn render(app: &App, held: &Held) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("onhand");
    let log = app.engine.log.stats();
    let worker = app.engine.stats();
    let of = &app.metrics;
    let placed = app.placement.standing();
    let open = (0..app.engine.partitions)
        .filter(|partition| app.engine.is_open(*partition))
        .count() as u64;
    let counters = [
        (
            "events_received",
            "Commands handed to their owners",
            load(&of.received),
        ),
        ("events_applied", "Commands applied", load(&of.applied)),
        ("events_granted", "Reservations granted", load(&of.granted)),
        (
            "events_rejected",
            "Requests refused by the rules",
            load(&of.rejected),
        ),
        (
            "events_duplicate",
            "Commands that were known already",
            load(&of.duplicate),
        ),
        (
            "events_invalid",
            "Commands that broke a rule",
            load(&of.invalid),
        ),
        (
            "events_parked",
            "Commands kept in dead-letters",
            load(&of.parked),
        ),
        (
            "events_refused",
            "Commands that broke a rule of their form and did not reach the log",
            load(&of.refused),
        ),
        (
            "requests_forwarded",
            "Requests that the owner of their key answered, elsewhere",
            load(&of.forwarded),
        ),
        (
            "requests_stale",
            "Reads answered by a standby, as their caller allowed",
            load(&of.stale),
        ),
        (
            "standby_takeovers",
            "Partitions that were opened with the state of a standby here",
            app.engine.standbys.taken(),
        ),
        (
            "partition_moves",
            "Partitions opened and closed while the node runs",
            placed.moves,
        ),
        ("log_appends", "Appends accepted by the log", log.appends),
        (
            "log_syncs",
            "Groups of appends written and synced",
            log.syncs,
        ),
        (
            "log_strangers",
            "Records in the log's own topics that it did not write, and that are left out",
            log.strangers,
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
            load(&of.cut_off),
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
        ("partitions_owned", "Partitions that are open here", open),
        (
            "partitions_opening",
            "Partitions that are assigned to this instance and not open yet",
            placed.opening,
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
        ("stock_skus", "SKUs ever named", held.skus),
        ("stock_levels", "Pairs of SKU and location", held.levels),
        (
            "stock_negative_levels",
            "Levels with on hand below 0",
            held.negative,
        ),
        (
            "stock_oversold_levels",
            "Levels with available below 0",
            held.oversold,
        ),
        (
            "reservations",
            "Reservations kept, ended ones included",
            held.reservations,
        ),
        (
            "ids_remembered",
            "Names of commands by which repeats are known",
            held.ids,
        ),
        (
            "ids_reach_seconds",
            "How far back repeats are known. Below 3600 somebody should look",
            u64::try_from(held.ids_reach_ms / 1_000).unwrap_or(0),
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
    render_residents(&mut registry, app);
    render_standbys(&mut registry, app);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Partitions that are followed here for others, and how far those are that are opened.
fn render_standbys(registry: &mut Registry, app: &App) {
    let all = app.engine.standbys.all();
    let warm = all.iter().filter(|(_, one)| one.is_warm).count();
    let opening = (0..app.engine.partitions).map(|partition| app.placement.left(partition));
    for (name, help, value) in [
        (
            "standbys",
            "Partitions of other instances that are followed here",
            all.len() as u64,
        ),
        (
            "standbys_restoring",
            "Of them those whose state is not there yet",
            (all.len() - warm) as u64,
        ),
        (
            "standby_lag",
            "Offsets between what they have restored or applied and the end of what is there",
            all.iter().map(|(_, one)| one.lag).sum(),
        ),
        (
            "opening_left",
            "Offsets still to be read for partitions that are being opened here",
            opening.sum(),
        ),
    ] {
        let gauge = ConstGauge::<i64>::new(value.try_into().unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    // One that never was level has no age; it is among those that restore, or has just done so.
    let stalest = all.iter().filter_map(|(_, one)| one.stale).max();
    registry.register(
        "standby_stale_seconds",
        "How old what they show may be, of the oldest",
        ConstGauge::<f64>::new(stalest.unwrap_or_default().as_secs_f64()),
    );
}

/// What is done for other programs on the log: `onhand_gate_...` of `stock.inbox`, `onhand_views_...` of
/// the JSON topics.
fn render_residents(registry: &mut Registry, app: &App) {
    for (name, of) in app.residents.figures() {
        let registry = registry.sub_registry_with_prefix(name);
        for (name, help, value) in [
            (
                "records",
                "Records read whose effect is durable",
                of.records,
            ),
            ("aside", "Of them those kept in dead-letters", of.aside),
            (
                "retries",
                "Times that something failed and was tried again",
                of.retries,
            ),
            (
                "missed",
                "Offsets that were deleted before they were read; not each holds a record",
                of.missed,
            ),
        ] {
            registry.register(name, help, ConstCounter::new(value));
        }
        for (name, help, value) in [
            (
                "lag",
                "Offsets between what has its effect and the end of what is there",
                of.lag,
            ),
            ("partitions", "Partitions that it works on", of.open),
            (
                "partitions_stopped",
                "Of them those that need somebody to look",
                of.stopped,
            ),
        ] {
            let gauge = ConstGauge::<i64>::new(value.try_into().unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn in_flight(app: &App) -> u64 {
    let free = app.in_flight.available_permits();
    (app.limits.in_flight_bytes - free.min(app.limits.in_flight_bytes)) as u64
}
