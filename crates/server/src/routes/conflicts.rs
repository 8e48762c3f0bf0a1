//! `GET /v1/conflicts`: what disagrees now.

use std::sync::Arc;

use hyper::Response;

use super::Call;
use super::page::{self, Items};
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::peers::question::{Conflicts, Section};
use crate::wire::conflict;
use crate::wire::problem::Problem;

/// Conflicts asked of one partition at a time, about; those of one key come whole.
const STEP: usize = 256;

/// What is listed, one after the other within each partition.
const SECTIONS: [Section; 2] = [Section::Stock, Section::Reservations];

pub(super) async fn list(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let kind = call.query.one("kind")?;
    if let Some(kind) = &kind
        && !conflict::KINDS.contains(&kind.as_str())
    {
        let known = conflict::KINDS.join(", ");
        return Err(Problem::parameter(
            "kind",
            format!("is {kind:?}; send one of {known}"),
        ));
    }
    let limit = call.query.limit()?;
    let cursor = call.query.one("cursor")?;
    call.query.finish()?;
    // A place of the list: which partition and section, after which key, and how many of the next key
    // were shown.
    let (mut place, mut after, mut skip) = (0usize, String::new(), 0usize);
    if let Some(cursor) = cursor {
        let [at, key, shown] = page::read_cursor::<3>(&cursor)?;
        let wrong = |_| Problem::parameter("cursor", "is none of this list; begin without it");
        place = at.parse().map_err(wrong)?;
        skip = shown.parse().map_err(wrong)?;
        after = key;
    }
    let mut items = Items::default();
    let partitions = app.engine.partitions;
    while let Some(section) = SECTIONS.get(place % SECTIONS.len())
        && let Some(partition) = u16::try_from(place / SECTIONS.len())
            .ok()
            .filter(|p| *p < partitions)
    {
        let question = Conflicts {
            of: *section,
            after: Some(after.clone()).filter(|after| !after.is_empty()),
            limit: STEP,
        };
        let found = app.engine.ask(partition, question).await?;
        let full = found.len() >= STEP;
        let (mut key, mut of_key) = (after.clone(), 0);
        for one in &found {
            if conflict::key(one) != key {
                if of_key > 0 {
                    after.clone_from(&key);
                    skip = 0;
                }
                conflict::key(one).clone_into(&mut key);
                of_key = 0;
            }
            of_key += 1;
            if of_key <= skip
                || kind
                    .as_deref()
                    .is_some_and(|kind| kind != conflict::kind(one))
            {
                continue;
            }
            if items.count == limit {
                let shown = (of_key - 1).to_string();
                let cursor = page::cursor(&[&place.to_string(), &after, &shown]);
                return Ok(respond::json(200, page::body(&items.json, Some(&cursor))));
            }
            items.push(|out| conflict::write(out, one));
        }
        skip = 0;
        if full {
            after = key;
        } else {
            place += 1;
            after.clear();
        }
    }
    Ok(respond::json(200, page::body(&items.json, None)))
}
