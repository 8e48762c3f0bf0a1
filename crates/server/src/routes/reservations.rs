//! `/v1/reservations...`: the requests on reservations as resources.

use std::sync::Arc;

use hyper::{Response, header};
use onhand_ledger::Command;
use onhand_ledger::reservation::ReservationRecord;
use percent_encoding::utf8_percent_encode;

use super::page::{self, Items, LOOKED_AT_MAX};
use super::{Call, commands};
use crate::app::App;
use crate::http::request::{idempotency_key, media_type};
use crate::http::respond::{self, Body};
use crate::intake::single;
use crate::peers::question::{ReservationOf, ReservationsAbove};
use crate::stale::Stale;
use crate::wire::command::{self, Given, Kind as CommandKind};
use crate::wire::problem::{Kind, Problem};
use crate::wire::reservation::{STATUSES, shown_status, write};
use crate::wire::write::SEGMENT;

pub(super) async fn create(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    request(app, call, CommandKind::Reserve, None).await
}

pub(super) async fn confirm(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    of_one(app, call, CommandKind::Confirm).await
}

pub(super) async fn release(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    of_one(app, call, CommandKind::Release).await
}

pub(super) async fn extend(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    of_one(app, call, CommandKind::Extend).await
}

pub(super) fn transfer() -> Problem {
    Problem::new(
        Kind::NOT_AVAILABLE,
        "transfer is not available in this version; release and reserve at the other location",
    )
}

async fn of_one(
    app: &Arc<App>,
    call: &mut Call,
    kind: CommandKind,
) -> Result<Response<Body>, Problem> {
    let reservation = call.named(0);
    request(app, call, kind, Some(reservation)).await
}

async fn request(
    app: &Arc<App>,
    call: &mut Call,
    kind: CommandKind,
    reservation: Option<String>,
) -> Result<Response<Body>, Problem> {
    let media = media_type(&call.parts.headers);
    commands::refuse_encoding(call)?;
    call.query.finish()?;
    let limits = &app.limits;
    let bytes = call.body(limits.body_bytes, limits.request_idle).await?;
    // Confirming all that is open needs nothing but a name: a key in the header is enough.
    let text = match single::text(&bytes)? {
        "" if kind != CommandKind::Reserve => "{}",
        _ if media.as_deref() != Some("application/json") => {
            return Err(Problem::new(
                Kind::MEDIA,
                "send Content-Type: application/json",
            ));
        }
        text => text,
    };
    let given = Given {
        id: idempotency_key(&call.parts.headers)?,
        kind: Some(kind),
        reservation: reservation.as_deref(),
        ..Given::default()
    };
    let command = match command::parse(text, &given) {
        Ok(command) => command,
        Err(refusal) => return Ok(commands::refused(app, &refusal)),
    };
    let mut answer = single::submit(app, &command).await?;
    if kind != CommandKind::Reserve || answer.status != 200 {
        return Ok(commands::respond(answer));
    }
    answer.status = 201;
    let location = format!("/v1/reservations/{}", segment(&command));
    Ok(respond::with_header(
        commands::respond(answer),
        header::LOCATION,
        &location,
    ))
}

fn segment(command: &Command<'_>) -> String {
    utf8_percent_encode(onhand_flows::key_of(command), SEGMENT).to_string()
}

pub(super) async fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let id = call.named(0);
    call.query.finish()?;
    let partition = app.engine.partition_of(&id);
    app.engine.must_be_here(partition)?;
    let question = ReservationOf { id: id.clone() };
    let found = app.engine.ask(partition, question).await?;
    let Some(record) = found else {
        return Err(Problem::new(
            Kind::NOT_FOUND,
            format!("there is no reservation {id:?}; list them with GET /v1/reservations"),
        ));
    };
    let mut out = Vec::with_capacity(512);
    write(&mut out, &record, app.engine.origin(partition));
    Ok(respond::json(200, out))
}

/// What a list leaves out.
#[derive(Clone, Debug)]
struct Filter {
    sku: Option<String>,
    location: Option<String>,
    state: Option<String>,
    channel: Option<String>,
}

impl Filter {
    fn takes(&self, record: &ReservationRecord<'_>) -> bool {
        let line = record.lines.iter().any(|line| {
            let here = line.location.as_ref().map(|location| location.as_str());
            self.sku.as_ref().is_none_or(|sku| sku == line.sku.as_str())
                && self
                    .location
                    .as_deref()
                    .is_none_or(|location| Some(location) == here)
        });
        let lines_matter = self.sku.is_some() || self.location.is_some();
        (line || !lines_matter)
            && self
                .state
                .as_deref()
                .is_none_or(|state| state == shown_status(record))
            && self
                .channel
                .as_deref()
                .is_none_or(|c| Some(c) == record.channel.as_deref())
    }
}

pub(super) async fn list(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let filter = Filter {
        sku: call.query.one("sku")?,
        location: call.query.one("location")?,
        state: call.query.one("state")?,
        channel: call.query.one("channel")?,
    };
    if let Some(state) = &filter.state
        && !STATUSES.contains(&state.as_str())
    {
        let known = STATUSES.join(", ");
        return Err(Problem::parameter(
            "state",
            format!("is {state:?}; send one of {known}"),
        ));
    }
    let limit = call.query.limit()?;
    let cursor = call.query.one("cursor")?;
    call.query.finish()?;
    let mut after = match cursor {
        Some(cursor) => {
            let [last] = page::read_cursor::<1>(&cursor)?;
            Some(last)
        }
        None => None,
    };
    let mut items = Items::default();
    let mut looked_at = 0;
    let next = loop {
        let question = ReservationsAbove {
            after: after.clone(),
            limit: page::STEP,
        };
        let (found, bound) = page::step(&app.engine, question, &Stale::default()).await?;
        looked_at += found.len();
        let mut full = None;
        for one in found {
            let Some(record) = one.value.filter(|record| filter.takes(record)) else {
                continue;
            };
            items.push(|out| write(out, &record, app.engine.origin(one.partition)));
            if items.count == limit {
                full = Some(one.key);
                break;
            }
        }
        if full.is_some() || bound.is_none() {
            break full;
        }
        if looked_at >= LOOKED_AT_MAX {
            break bound;
        }
        after = bound;
    };
    let next = next.map(|last| page::cursor(&[&last]));
    Ok(respond::json(200, page::body(&items.json, next.as_deref())))
}
