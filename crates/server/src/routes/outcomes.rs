//! `GET /v1/outcomes`: what became of a command, by its name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use hyper::Response;
use onhand_flows::pack::sender_of;

use super::Call;
use super::page::{self, Items};
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::peers::question::OutcomesOf;
use crate::wire::outcome::{self, Detail, Said};
use crate::wire::problem::{Kind, Problem};

/// A name is used at one key, or at the lines of one order; more than this are not shown.
const OUTCOMES_MAX: usize = 1_000;

pub(super) async fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let missing = |name: &'static str| {
        move || Problem::parameter(name, "is missing; a command is named by source and id")
    };
    let source = call.query.one("source")?.ok_or_else(missing("source"))?;
    let id = call.query.one("id")?.ok_or_else(missing("id"))?;
    call.query.finish()?;
    let sender = sender_of(&source, &id);
    // A name is one at its key: any partition may know it, at any number of keys.
    let question = OutcomesOf {
        sender,
        limit: OUTCOMES_MAX,
    };
    let found = app.engine.ask_all(question).await?;
    let found: Vec<(u16, u64)> = (0u16..)
        .zip(found)
        .flat_map(|(p, numbers)| numbers.into_iter().map(move |number| (p, number)))
        .take(OUTCOMES_MAX)
        .collect();
    if found.is_empty() {
        return Err(Problem::new(
            Kind::NOT_FOUND,
            format!(
                "no outcome of {id:?} from {source:?} is remembered: it never came, it is still \
                 being decided, it came with seq, or it is older than what is kept; look into \
                 GET /v1/history"
            ),
        ));
    }
    let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
    for (partition, number) in &found {
        let newest = newest.entry(*partition).or_default();
        *newest = number.max(newest).to_owned();
    }
    for (partition, number) in newest {
        app.engine.must_show(partition, number).await?;
    }
    let epoch = app.engine.epoch;
    let items = app
        .engine
        .lookup(move |log| {
            let mut items = Items::default();
            for (partition, number) in found {
                let origin = outcome::Origin { epoch, partition };
                log.scan(partition, number.saturating_sub(1), number, |decision| {
                    if let Some(said) = Said::sent(decision, sender, origin) {
                        items.push(|out| outcome::write(out, &said, None, None, Detail::Whole));
                    }
                    ControlFlow::Continue(())
                })?;
            }
            Ok(items)
        })
        .await?;
    Ok(respond::json(200, page::body(&items.json, None)))
}
