//! `GET /v1/stock...`: levels as they are, and as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyper::{Response, header};
use onhand_ledger::{Amount, Level};

use super::Call;
use super::page::{self, Found, Items, LOOKED_AT_MAX};
use super::past::{self, Past, PastLevel};
use crate::app::App;
use crate::http::request::Query;
use crate::http::respond::{self, Body};
use crate::peers::forward::FORWARDED;
use crate::peers::question::{LevelsOf, NamesLike, StockAbove};
use crate::stale::Stale;
use crate::wire::field;
use crate::wire::level::{Figures, LevelView};
use crate::wire::problem::{Kind, Problem};
use crate::wire::value::Value;
use crate::wire::write::{Object, list as write_list};

/// Names proposed for a SKU that is not there.
const NEAR_MAX: usize = 3;

/// What a list leaves out.
#[derive(Clone, Default, Debug)]
struct Filter {
    location: Option<String>,
    below: Option<Amount>,
    negative: bool,
}

impl Filter {
    fn read(query: &mut Query) -> Result<Self, Problem> {
        let below = query.one("below")?.map(|text| {
            let value = match text.parse() {
                Ok(n) => Value::Int(n),
                Err(_) => Value::Text(text.into()),
            };
            field::amount(&value).map_err(|why| Problem::parameter("below", why))
        });
        Ok(Self {
            location: query.one("location")?,
            below: below.transpose()?,
            negative: query.flag("negative")?,
        })
    }

    fn takes(&self, level: &LevelView<'_>) -> bool {
        let here = self.location.as_ref().is_none_or(|l| l == level.location);
        let available = level.figures.available();
        let low = self.below.is_none_or(|limit| {
            // Compared in millionths, so that any declared decimals fit.
            scaled(available, level.decimals) < scaled(limit.mantissa, limit.decimals)
        });
        here && low && (!self.negative || available < 0 || level.figures.on_hand < 0)
    }
}

fn scaled(units: i64, decimals: u8) -> i128 {
    i128::from(units) * 10i128.pow(u32::from(field::DECIMALS_MAX.saturating_sub(decimals)))
}

/// A page of levels being filled.
struct Levels {
    filter: Filter,
    limit: usize,
    epoch: u64,
    items: Items,
    /// Where the next page begins, once this one is full.
    next: Option<String>,
}

impl Levels {
    /// Adds the levels of a SKU, in byte order of location, those up to `beyond` left out.
    fn put<'l>(
        &mut self,
        sku: &str,
        levels: impl IntoIterator<Item = LevelView<'l>>,
        beyond: Option<&str>,
    ) {
        for level in levels {
            let passed = beyond.is_some_and(|beyond| level.location <= beyond);
            if passed || !self.filter.takes(&level) {
                continue;
            }
            self.items.push(|out| level.write(out, self.epoch));
            if self.items.count == self.limit {
                self.next = Some(page::cursor(&[sku, level.location]));
                return;
            }
        }
    }
}

/// SKUs that one page of the past looks at: each step of them reads the log.
const LOOKED_AT_IN_THE_PAST_MAX: usize = 1_000;

pub(super) async fn list(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let filter = Filter::read(&mut call.query)?;
    let sku = call.query.one("sku")?;
    let prefix = call.query.one("sku_prefix")?.unwrap_or_default();
    let past = past::read(app, &mut call.query)?;
    let stale = Stale::read(&mut call.query)?;
    let limit = call.query.limit()?;
    let cursor = call.query.one("cursor")?;
    call.query.finish()?;
    if past.is_some() {
        stale.refuse()?;
    }
    let mut page = Levels {
        filter,
        limit,
        epoch: app.engine.epoch,
        items: Items::default(),
        next: None,
    };
    let mut after: Option<String> = None;
    if let Some(cursor) = cursor {
        // The page before may have ended between two locations of one SKU.
        let [last_sku, last_location] = page::read_cursor::<2>(&cursor)?;
        put_one(
            app,
            &mut page,
            &last_sku,
            past.as_ref(),
            Some(&last_location),
            &stale,
        )
        .await?;
        after = Some(last_sku);
    }
    if let Some(sku) = sku {
        if after.is_none() && sku.starts_with(&prefix) {
            put_one(app, &mut page, &sku, past.as_ref(), None, &stale).await?;
        }
        return Ok(say(app, &stale, listed(&page)));
    }
    let most = match past {
        None => LOOKED_AT_MAX,
        Some(_) => LOOKED_AT_IN_THE_PAST_MAX,
    };
    let mut looked_at = 0;
    while page.next.is_none() {
        let question = StockAbove {
            after: after.clone(),
            prefix: prefix.clone(),
            limit: page::STEP,
            levels: page::step_levels(&app.engine),
        };
        let (found, bound) = page::step(&app.engine, question, &stale).await?;
        // What is shown of the past is read SKU by SKU, what is now is told level by level.
        looked_at += match past {
            None => found.iter().map(|one| one.value.len().max(1)).sum(),
            Some(_) => found.len(),
        };
        let then = match &past {
            None => None,
            Some(past) => Some(levels_then(app, &found, past).await?),
        };
        for one in &found {
            let (sku, partition) = (&one.key, one.partition);
            match &then {
                None => {
                    let levels = one.value.iter();
                    page.put(sku, levels.map(|l| LevelView::of(sku, partition, l)), None);
                }
                Some(then) => {
                    let levels = then.get(sku).into_iter().flatten();
                    page.put(sku, levels.map(|level| level.view(sku, partition)), None);
                }
            }
            if page.next.is_some() {
                break;
            }
        }
        if page.next.is_some() || bound.is_none() {
            break;
        }
        if looked_at >= most
            && let Some(bound) = &bound
        {
            // No location is above this one: the SKU itself has been looked at.
            page.next = Some(page::cursor(&[bound, "\u{10ffff}"]));
        }
        after = bound;
    }
    Ok(say(app, &stale, listed(&page)))
}

fn listed(page: &Levels) -> Response<Body> {
    respond::json(200, page::body(&page.items.json, page.next.as_deref()))
}

/// Adds the levels of one SKU, as they are or as they were.
async fn put_one(
    app: &App,
    page: &mut Levels,
    sku: &str,
    past: Option<&Past>,
    beyond: Option<&str>,
    stale: &Stale,
) -> Result<(), Problem> {
    let partition = app.engine.partition_of(sku);
    match past {
        None => {
            let levels = levels(app, partition, sku.to_owned(), stale).await?;
            let levels = levels.iter().flatten();
            page.put(
                sku,
                levels.map(|l| LevelView::of(sku, partition, l)),
                beyond,
            );
        }
        Some(past) => {
            let levels = levels_of_one_then(app, partition, sku, past).await?;
            let levels = levels.iter();
            page.put(sku, levels.map(|level| level.view(sku, partition)), beyond);
        }
    }
    Ok(())
}

/// The levels of the past of all these SKUs: each partition is read once.
async fn levels_then<T>(
    app: &App,
    found: &[Found<T>],
    past: &Past,
) -> Result<BTreeMap<String, Vec<PastLevel>>, Problem> {
    let mut wanted: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for one in found {
        wanted
            .entry(one.partition)
            .or_default()
            .insert(one.key.clone());
    }
    let mut levels = BTreeMap::new();
    for (partition, skus) in wanted {
        levels.extend(past::levels(app, partition, skus, past).await?);
    }
    Ok(levels)
}

async fn levels_of_one_then(
    app: &App,
    partition: u16,
    sku: &str,
    past: &Past,
) -> Result<Vec<PastLevel>, Problem> {
    let wanted = BTreeSet::from([sku.to_owned()]);
    let levels = past::levels(app, partition, wanted, past).await?;
    Ok(levels.into_values().next().unwrap_or_default())
}

async fn levels(
    app: &App,
    partition: u16,
    sku: String,
    stale: &Stale,
) -> Result<Option<Vec<Level>>, Problem> {
    let question = LevelsOf { sku };
    app.engine.ask_within(partition, question, stale).await
}

/// What a read that names one SKU allows. Only its owner answers where nothing is allowed: a request
/// that came elsewhere is handed on whole. One that was handed on is answered by the owner alone.
fn allowed(
    app: &App,
    call: &mut Call,
    partition: u16,
    past: Option<&Past>,
) -> Result<Stale, Problem> {
    let stale = Stale::read(&mut call.query)?;
    call.query.finish()?;
    if past.is_some() {
        stale.refuse()?;
    }
    let is_handed_on = call.parts.headers.contains_key(FORWARDED);
    if stale.most().is_none() || is_handed_on {
        app.engine.must_be_here(partition)?;
    }
    Ok(stale)
}

/// Counts an answer that a standby gave, and says in it how old it may be.
fn say(app: &App, stale: &Stale, response: Response<Body>) -> Response<Body> {
    if stale.is_used() {
        app.metrics.stale();
    }
    stale.say(response)
}

pub(super) async fn of_sku(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let sku = call.named(0);
    let past = past::read(app, &mut call.query)?;
    let partition = app.engine.partition_of(&sku);
    let stale = allowed(app, call, partition, past.as_ref())?;
    let mut out = Vec::with_capacity(512);
    if let Some(past) = past {
        let levels = levels_of_one_then(app, partition, &sku, &past).await?;
        if levels.is_empty() {
            return Err(not_then(app, partition, &sku, None).await?);
        }
        let views: Vec<_> = levels
            .iter()
            .map(|level| level.view(&sku, partition))
            .collect();
        write_sku(&mut out, app.engine.epoch, &sku, &views, Some(&past));
        return Ok(respond::json(200, out));
    }
    let found = levels(app, partition, sku.clone(), &stale).await?;
    let Some(levels) = found else {
        let unknown = unknown_sku(app, &sku, &stale).await?;
        return Ok(say(app, &stale, respond::problem(&unknown)));
    };
    let views: Vec<_> = levels
        .iter()
        .map(|level| LevelView::of(&sku, partition, level))
        .collect();
    write_sku(&mut out, app.engine.epoch, &sku, &views, None);
    Ok(say(app, &stale, respond::json(200, out)))
}

fn write_sku(
    out: &mut Vec<u8>,
    epoch: u64,
    sku: &str,
    levels: &[LevelView<'_>],
    past: Option<&Past>,
) {
    let mut object = Object::open(out);
    object.text("sku", sku);
    write_list(object.key("levels"), levels, |out, level| {
        level.write(out, epoch);
    });
    let sum = levels
        .iter()
        .fold(Figures::default(), |sum, level| sum.plus(&level.figures));
    let mut total = Object::open(object.key("total"));
    sum.write(&mut total, levels.first().map_or(0, |level| level.decimals));
    total.close();
    if let Some(past) = past {
        past.write(&mut object);
    }
    object.close();
}

pub(super) async fn at_location(
    app: &Arc<App>,
    call: &mut Call,
) -> Result<Response<Body>, Problem> {
    let (sku, location) = (call.named(0), call.named(1));
    let past = past::read(app, &mut call.query)?;
    let partition = app.engine.partition_of(&sku);
    let stale = allowed(app, call, partition, past.as_ref())?;
    let epoch = app.engine.epoch;
    let mut out = Vec::with_capacity(512);
    if let Some(past) = past {
        let levels = levels_of_one_then(app, partition, &sku, &past).await?;
        let Some(level) = levels.iter().find(|level| level.location == location) else {
            return Err(not_then(app, partition, &sku, Some(&location)).await?);
        };
        level.view(&sku, partition).write(&mut out, epoch);
        return Ok(respond::json(200, out));
    }
    let found = levels(app, partition, sku.clone(), &stale).await?;
    let Some(levels) = found else {
        let unknown = unknown_sku(app, &sku, &stale).await?;
        return Ok(say(app, &stale, respond::problem(&unknown)));
    };
    let Some(level) = levels
        .iter()
        .find(|level| level.location.as_str() == location)
    else {
        let unknown = unknown_location(&location, &levels);
        return Ok(say(app, &stale, respond::problem(&unknown)));
    };
    let view = LevelView::of(&sku, partition, level);
    let etag = view.etag(epoch);
    let same = call
        .parts
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            // Compared weakly, as RFC 9110 says of this header.
            let named = |one: &str| one.strip_prefix("W/").unwrap_or(one) == etag;
            value
                .split(',')
                .map(str::trim)
                .any(|one| one == "*" || named(one))
        });
    let response = if same {
        respond::json(304, Vec::new())
    } else {
        view.write(&mut out, epoch);
        respond::json(200, out)
    };
    let response = respond::with_header(response, header::ETAG, &etag);
    Ok(say(app, &stale, response))
}

/// 404 of the past: not there then, or never there at all.
async fn not_then(
    app: &App,
    partition: u16,
    sku: &str,
    location: Option<&str>,
) -> Result<Problem, Problem> {
    let strict = Stale::default();
    let Some(now) = levels(app, partition, sku.to_owned(), &strict).await? else {
        return unknown_sku(app, sku, &strict).await;
    };
    if let Some(location) = location
        && !now.iter().any(|level| level.location.as_str() == location)
    {
        return Ok(unknown_location(location, &now));
    }
    Ok(Problem::new(
        Kind::NOT_FOUND,
        format!("{sku:?} had no stock there then; ask for a later time, or read /v1/history"),
    ))
}

/// 404, with the SKU's locations of nearest spelling.
fn unknown_location(location: &str, levels: &[Level]) -> Problem {
    let known = levels.iter().map(|level| level.location.as_str());
    near_problem(
        &format!("no stock of this SKU has ever been at {location:?}"),
        &near(location, known),
    )
}

/// 404, with the SKUs of nearest spelling.
async fn unknown_sku(app: &App, sku: &str, stale: &Stale) -> Result<Problem, Problem> {
    /// Letters that a near spelling shares with what was asked.
    const SHARED: usize = 2;
    /// Candidates per partition and spelling: enough to find a slip of a finger among neighbours.
    const CANDIDATES: usize = 500;
    let prefixes: Vec<String> = [sku.to_owned(), sku.to_uppercase(), sku.to_lowercase()]
        .iter()
        .map(|spelling| spelling.trim().chars().take(SHARED).collect())
        .collect();
    let question = NamesLike {
        prefixes,
        limit: CANDIDATES,
    };
    let pages = app.engine.ask_all_within(question, stale).await?;
    let known: Vec<String> = pages.into_iter().flatten().collect();
    let near = near(sku, known.iter().map(String::as_str));
    Ok(near_problem(
        &format!("no fact has named the SKU {sku:?}"),
        &near,
    ))
}

fn near<'k>(asked: &str, known: impl Iterator<Item = &'k str>) -> Vec<String> {
    /// Below this Jaro-Winkler likeness names are not near.
    const LIKENESS_MIN: f64 = 0.8;
    let lower = asked.to_lowercase();
    let mut likely: Vec<(f64, &str)> = known
        .map(|one| (strsim::jaro_winkler(&lower, &one.to_lowercase()), one))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    likely.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    likely.dedup_by(|a, b| a.1 == b.1);
    likely
        .into_iter()
        .take(NEAR_MAX)
        .map(|(_, one)| one.to_owned())
        .collect()
}

fn near_problem(what: &str, near: &[String]) -> Problem {
    if near.is_empty() {
        let detail = format!("{what}; list what there is with GET /v1/stock");
        return Problem::new(Kind::NOT_FOUND, detail);
    }
    let quoted: Vec<String> = near.iter().map(|one| format!("{one:?}")).collect();
    Problem::new(
        Kind::NOT_FOUND,
        format!("{what}; did you mean {}?", quoted.join(" or ")),
    )
    .with_list("near", near)
}
