//! `GET /v1/history`: every entry of a SKU in log order.

use std::ops::ControlFlow;
use std::sync::Arc;

use hyper::Response;
use onhand_ledger::Time;

use super::page::{self, Items};
use super::{Call, past};
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::wire::change::entries;
use crate::wire::field;
use crate::wire::problem::Problem;
use crate::wire::write::rfc3339;

pub(super) async fn get(app: &Arc<App>, mut call: Call) -> Result<Response<Body>, Problem> {
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
    let origin = app.engine.origin(partition);
    let body = app
        .engine
        .scan(move |log| {
            let mut items = Items::default();
            let mut next = None;
            // The cursor names the entry behind the last one shown: its decision, and its place in it.
            log.scan(partition, after.saturating_sub(1), u64::MAX, |decision| {
                if to.is_some_and(|to| decision.at > to) {
                    return ControlFlow::Break(());
                }
                if from.is_some_and(|from| decision.at < from) {
                    return ControlFlow::Continue(());
                }
                for (index, entry) in entries(decision, origin).enumerate() {
                    let here = location.as_deref().is_none_or(|one| one == entry.location);
                    let shown = decision.number == after && index < skip;
                    if entry.sku != sku || !here || shown {
                        continue;
                    }
                    if items.count == limit {
                        let (number, index) = (decision.number.to_string(), index.to_string());
                        next = Some(page::cursor(&[&sku, &number, &index]));
                        return ControlFlow::Break(());
                    }
                    items.push(|out| entry.write(out));
                }
                ControlFlow::Continue(())
            })?;
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
