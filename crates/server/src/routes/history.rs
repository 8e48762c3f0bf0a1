//! `GET /v1/history`: every entry of a SKU in log order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use hyper::Response;
use onhand_ledger::Time;

use super::page::{self, Items};
use super::{Call, past};
use crate::app::App;
use crate::decisions::{DecisionError, DecisionLog};
use crate::http::respond::{self, Body};
use crate::wire::change::entries;
use crate::wire::field;
use crate::wire::level::Figures;
use crate::wire::outcome::Origin;
use crate::wire::problem::Problem;
use crate::wire::write::rfc3339;

pub(super) async fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let sku = call
        .query
        .one("sku")?
        .ok_or_else(|| Problem::parameter("sku", "is missing; say whose history"))?;
    let location = call.query.one("location")?;
    let mut time = |name: &'static str| {
        let text = call.query.one(name)?;
        text.map(|text| {
            field::parse_time(&text.replace(' ', "+")).map_err(|why| Problem::parameter(name, why))
        })
        .transpose()
    };
    let (from, to): (Option<Time>, Option<Time>) = (time("from")?, time("to")?);
    let limit = call.query.limit()?;
    let cursor = call.query.one("cursor")?;
    call.query.finish()?;
    let (after, skip) = match cursor {
        None => (0, 0),
        Some(cursor) => {
            let [of, number, index] = page::read_cursor::<3>(&cursor)?;
            let wrong = || Problem::parameter("cursor", "is of another SKU; begin without it");
            if of != sku {
                return Err(wrong());
            }
            let number: u64 = number.parse().map_err(|_| wrong())?;
            (number, index.parse::<usize>().map_err(|_| wrong())?)
        }
    };
    let partition = app.engine.partition_of(&sku);
    app.engine.must_be_here(partition)?;
    let origin = app.engine.origin(partition);
    let asked = Asked {
        sku,
        location,
        from,
        to,
        limit,
        after,
        skip,
    };
    let body = app
        .engine
        .scan(move |log| {
            let begun = read(log, origin, &asked, after.saturating_sub(1))?;
            let (items, next) = match begun {
                Some(page) => page,
                // The balance after an entry that moved nothing stands further back.
                None => read(log, origin, &asked, 0)?.unwrap_or_default(),
            };
            let mut body = page::body(&items.json, next.as_deref());
            // Where the log begins later than the SKU's first entry, the reader is told so.
            if after == 0
                && let Some(earliest) = past::earliest(log, partition)?
            {
                body.pop();
                let held = rfc3339(earliest.time);
                body.extend_from_slice(format!(",\"held_from\":\"{held}\"}}").as_bytes());
            }
            Ok(body)
        })
        .await?;
    Ok(respond::json(200, body))
}

/// What a page of history is of.
struct Asked {
    sku: String,
    location: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
    limit: usize,
    /// The decision of the entry behind the last one shown, and that entry's place in it.
    after: u64,
    skip: usize,
}

/// A page and the cursor behind it, out of the decisions above `begin`. `None` when the balance of an
/// entry is known only further back.
fn read(
    log: &DecisionLog,
    origin: Origin,
    asked: &Asked,
    begin: u64,
) -> Result<Option<(Items, Option<String>)>, DecisionError> {
    let mut items = Items::default();
    let mut next = None;
    // By location, as the newest entry that changed a figure left it.
    let mut balances: BTreeMap<String, Figures> = BTreeMap::new();
    let from_first = begin == 0 && past::earliest(log, origin.partition)?.is_none();
    let mut further_back = false;
    log.scan(origin.partition, begin, u64::MAX, |decision| {
        if asked.to.is_some_and(|to| decision.at > to) {
            return ControlFlow::Break(());
        }
        let early =
            decision.number < asked.after || asked.from.is_some_and(|from| decision.at < from);
        for (index, entry) in entries(decision, origin).enumerate() {
            let here = asked
                .location
                .as_deref()
                .is_none_or(|one| one == entry.location);
            if entry.sku != asked.sku || !here {
                continue;
            }
            if let Some(level) = entry.level {
                balances.insert(entry.location.to_owned(), level.into());
            }
            if early || (decision.number == asked.after && index < asked.skip) {
                continue;
            }
            if items.count == asked.limit {
                let (number, index) = (decision.number.to_string(), index.to_string());
                next = Some(page::cursor(&[&asked.sku, &number, &index]));
                return ControlFlow::Break(());
            }
            let mut balance = balances.get(entry.location).copied();
            if balance.is_none() {
                if begin > 0 {
                    further_back = true;
                    return ControlFlow::Break(());
                }
                // Nothing has changed it since the first decision there is.
                balance = from_first.then(Figures::default);
            }
            items.push(|out| entry.write(out, balance));
        }
        ControlFlow::Continue(())
    })?;
    Ok((!further_back).then_some((items, next)))
}
