//! Levels as they were: what was known at a position or time, and what is known now of a time.
//!
//! Both read the partitions of the SKUs asked for, up to where the question ends: many SKUs of one
//! partition cost as much as one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use onhand_ledger::{MovementKind, Time};

use crate::app::App;
use crate::decisions::{DecisionError, DecisionLog};
use crate::http::request::Query;
use crate::peers::question::Number;
use crate::position::Position;
use crate::wire::change::{Delta, entries};
use crate::wire::field;
use crate::wire::level::{Figures, LevelView};
use crate::wire::outcome::Origin;
use crate::wire::problem::{Kind, Problem};
use crate::wire::write::{Object, rfc3339};

/// What is asked of the past.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// With all that is known now, at that event time.
    AsOf(Time),
    /// What the ledger said at that log time.
    KnownAtTime(Time),
    /// What the ledger said after those decisions, each of its own partition.
    KnownAt(Position),
}

impl Past {
    /// Says in the answer what was asked.
    pub(super) fn write(&self, object: &mut Object<'_>) {
        match self {
            Self::AsOf(time) => object.time("as_of", *time),
            Self::KnownAtTime(time) => object.time("known_at", *time),
            Self::KnownAt(position) => object.text("known_at", &position.token()),
        };
    }
}

/// Where the reading of one partition ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    AsOf(Time),
    Time(Time),
    Number(u64),
}

/// A level of the past.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PastLevel {
    pub(super) location: String,
    decimals: u8,
    figures: Figures,
    sequence: u64,
    number: u64,
    at: Time,
    /// Something had happened here by then.
    there: bool,
}

impl PastLevel {
    fn new(location: &str) -> Self {
        Self {
            location: location.to_owned(),
            decimals: 0,
            figures: Figures::default(),
            sequence: 0,
            number: 0,
            at: Time::default(),
            there: false,
        }
    }

    pub(super) fn view<'a>(&'a self, sku: &'a str, partition: u16) -> LevelView<'a> {
        LevelView {
            sku,
            location: &self.location,
            decimals: self.decimals,
            figures: self.figures,
            sequence: self.sequence,
            partition,
            number: self.number,
            at: self.at,
        }
    }
}

/// Reads `as_of` and `known_at`.
pub(super) fn read(app: &App, query: &mut Query) -> Result<Option<Past>, Problem> {
    let (as_of, known_at) = (query.one("as_of")?, query.one("known_at")?);
    match (as_of, known_at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::parameter(
            "known_at",
            "comes together with as_of; send one of them",
        )),
        (Some(text), None) => Ok(Some(Past::AsOf(time(app, "as_of", &text)?))),
        (None, Some(text)) => match Position::parse(&text) {
            Ok(position) => known_at_position(app, position).map(Some),
            // Every time begins with the digits of its year, in which no position begins.
            Err(error) if !text.starts_with(|first: char| first.is_ascii_digit()) => {
                Err(Problem::parameter(
                    "known_at",
                    format!("{error}, or a time such as 2026-01-31T08:26:00Z"),
                ))
            }
            Err(_) => Ok(Some(Past::KnownAtTime(time(app, "known_at", &text)?))),
        },
    }
}

/// A caller's clock may be so much ahead of the log's, ms: what it calls now is now.
const AHEAD_MS: i64 = 1_000;

fn time(app: &App, name: &str, text: &str) -> Result<Time, Problem> {
    // A space stands for the plus of an offset that came without percent-encoding.
    let text = text.replace(' ', "+");
    let time = field::parse_time(&text).map_err(|why| Problem::parameter(name, why))?;
    let now = app.engine.now();
    if time.0 > now.saturating_add(AHEAD_MS) {
        return Err(Problem::parameter(
            name,
            "is in the future; ask for a time up to now",
        ));
    }
    Ok(Time(time.0.min(now)))
}

fn known_at_position(app: &App, position: Position) -> Result<Past, Problem> {
    if position.epoch != app.engine.epoch {
        return Err(Problem::new(
            Kind::GONE,
            "known_at is a position of another epoch of this log, which is not held; ask by time",
        ));
    }
    Ok(Past::KnownAt(position))
}

impl Past {
    fn end(&self, partition: u16, newest: u64) -> Result<End, Problem> {
        let position = match self {
            Self::AsOf(time) => return Ok(End::AsOf(*time)),
            Self::KnownAtTime(time) => return Ok(End::Time(*time)),
            Self::KnownAt(position) => position,
        };
        let Some(number) = position.number(partition) else {
            return Err(Problem::parameter(
                "known_at",
                "does not speak of all that is asked for; send a feed's position, or keep to one of \
                 its SKUs",
            ));
        };
        if number > newest {
            return Err(Problem::parameter(
                "known_at",
                "is in the future; send a position seen before",
            ));
        }
        Ok(End::Number(number))
    }
}

/// The levels of the past of these SKUs of one partition, by SKU, each in byte order of location. A SKU
/// that had none then is absent.
pub(super) async fn levels(
    app: &App,
    partition: u16,
    skus: BTreeSet<String>,
    past: &Past,
) -> Result<BTreeMap<String, Vec<PastLevel>>, Problem> {
    let origin = app.engine.origin(partition);
    let newest = app.engine.ask(partition, Number).await?;
    let end = past.end(partition, newest)?;
    // What was answered before this was asked is part of the answer, wherever it was decided.
    app.engine.must_show(partition, newest).await?;
    let read = app
        .engine
        .scan(move |log| fold(log, origin, &skus, end))
        .await?;
    read.map_err(|earliest| {
        let earliest = rfc3339(earliest);
        Problem::new(
            Kind::TOO_OLD,
            format!("decisions are held from {earliest} on; ask for that time or a later one"),
        )
        .with("earliest", &earliest)
    })
}

/// The levels, or the earliest time that can be answered.
fn fold(
    log: &DecisionLog,
    origin: Origin,
    skus: &BTreeSet<String>,
    end: End,
) -> Result<Result<BTreeMap<String, Vec<PastLevel>>, Time>, DecisionError> {
    if let Some(earliest) = earliest(log, origin.partition)?
        && match end {
            End::AsOf(time) | End::Time(time) => time < earliest.time,
            End::Number(number) => number < earliest.number,
        }
    {
        return Ok(Err(earliest.time));
    }
    let mut levels: BTreeMap<String, BTreeMap<String, PastLevel>> = BTreeMap::new();
    let to = match end {
        End::Number(number) => number,
        End::AsOf(_) | End::Time(_) => u64::MAX,
    };
    log.scan(origin.partition, 0, to, |decision| {
        if let End::Time(time) = end
            && decision.at > time
        {
            // Log time never falls.
            return ControlFlow::Break(());
        }
        for entry in entries(decision, origin).filter(|entry| skus.contains(entry.sku)) {
            let level = levels
                .entry(entry.sku.to_owned())
                .or_default()
                .entry(entry.location.to_owned())
                .or_insert_with(|| PastLevel::new(entry.location));
            level.decimals = decision.decimals;
            let after = entry.level.map(Figures::from);
            let taken = match end {
                End::AsOf(time) => as_of(&mut level.figures, after, decision, entry.index, time),
                End::Time(_) | End::Number(_) => {
                    level.figures = after.unwrap_or(level.figures);
                    true
                }
            };
            level.there |= taken;
            if taken && let Some(changed) = entry.level {
                level.sequence = changed.sequence;
                level.number = decision.number;
                level.at = decision.at;
            }
        }
        ControlFlow::Continue(())
    })?;
    // What did not exist then is not there, rather than zero.
    Ok(Ok(levels
        .into_iter()
        .map(|(sku, levels)| {
            let there = levels.into_values().filter(|level| level.there);
            (sku, there.collect::<Vec<_>>())
        })
        .filter(|(_, levels)| !levels.is_empty())
        .collect()))
}

/// Adds what the decision moved at that event time or before; holds have no event time and are taken as
/// the ledger had them then. Says whether anything was added.
fn as_of(
    figures: &mut Figures,
    after: Option<Figures>,
    decision: &onhand_ledger::Decision<'_>,
    location: u8,
    time: Time,
) -> bool {
    let mut delta = Delta::default();
    let mut taken = false;
    for movement in &decision.movements {
        let at = match movement.kind {
            MovementKind::Fact | MovementKind::Correction(_) => {
                decision.event_time.unwrap_or(decision.at)
            }
            MovementKind::Refold(_, at) => at,
            MovementKind::Hold => continue,
        };
        if at <= time {
            taken = true;
            delta.add(
                movement.from,
                location,
                movement.quantity.0.saturating_neg(),
            );
            delta.add(movement.to, location, movement.quantity.0);
        }
    }
    figures.on_hand = figures.on_hand.saturating_add(delta.on_hand());
    figures.damaged = figures.damaged.saturating_add(delta.damaged);
    figures.quality_control = figures
        .quality_control
        .saturating_add(delta.quality_control);
    if decision.at <= time
        && let Some(after) = after
    {
        taken |= figures.reserved != after.reserved || figures.committed != after.committed;
        figures.reserved = after.reserved;
        figures.committed = after.committed;
    }
    taken
}

/// From where on decisions are held, where that is not from the first.
pub(super) struct Earliest {
    pub(super) number: u64,
    pub(super) time: Time,
}

pub(super) fn earliest(
    log: &DecisionLog,
    partition: u16,
) -> Result<Option<Earliest>, DecisionError> {
    let Some(pack) = log.oldest(partition)?.filter(|pack| pack.first > 1) else {
        return Ok(None);
    };
    let mut earliest = None;
    let _ = pack.each(0, |decision| {
        earliest = Some(Earliest {
            number: decision.number,
            time: decision.at,
        });
        ControlFlow::Break(())
    })?;
    Ok(earliest)
}
