//! `POST /v1/commands`: one command as JSON, any number as NDJSON.

use std::sync::Arc;

use hyper::Response;
use hyper::header;

use super::{Call, REPLAYED};
use crate::app::App;
use crate::engine::internal;
use crate::http::request::{idempotency_key, media_type};
use crate::http::respond::{self, Body};
use crate::intake::lines::Encoding;
use crate::intake::single::{self, Answer};
use crate::intake::stream;
use crate::wire::command::{self, Given};
use crate::wire::problem::{self, Kind, Problem};
use crate::wire::refusal::Refusal;

pub(super) async fn post(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let media = media_type(&call.parts.headers);
    match media.as_deref() {
        Some("application/json") => {
            refuse_encoding(call)?;
            call.query.finish()?;
            let limits = &app.limits;
            let text = call.body(limits.body_bytes, limits.request_idle).await?;
            let key = idempotency_key(&call.parts.headers)?;
            let given = Given {
                id: key,
                ..Given::default()
            };
            match command::parse(single::text(&text)?, &given) {
                Ok(command) => Ok(respond(single::submit(app, &command).await?)),
                Err(refusal) => Ok(refused(app, &refusal)),
            }
        }
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            if call.parts.headers.contains_key("idempotency-key") {
                return Err(Problem::parameter(
                    "Idempotency-Key",
                    "names one command; in a stream each line has its own id",
                ));
            }
            let problems_only = match call.query.one("results")?.as_deref() {
                None | Some("all") => false,
                Some("problems") => true,
                Some(other) => {
                    return Err(Problem::parameter(
                        "results",
                        format!("is {other:?}; send all or problems"),
                    ));
                }
            };
            let encoding = encoding(call)?;
            call.query.finish()?;
            let body = call
                .stream()
                .ok_or_else(|| internal("a body was read before"))?;
            stream::start(app, body, encoding, problems_only)
        }
        _ => Err(Problem::new(
            Kind::MEDIA,
            "send Content-Type: application/json for one command, application/x-ndjson for many",
        )),
    }
}

/// The answer to one command.
pub(super) fn respond(answer: Answer) -> Response<Body> {
    let response = if answer.status >= 400 {
        respond::problem_body(answer.status, answer.body)
    } else {
        respond::json(answer.status, answer.body)
    };
    if answer.replayed {
        respond::with_header(response, REPLAYED, "true")
    } else {
        response
    }
}

/// The answer to a command that did not reach the log.
pub(super) fn refused(app: &App, refusal: &Refusal) -> Response<Body> {
    app.metrics.refused(1);
    let kind = problem::kind_of_refusal(refusal.kind);
    respond::problem_body(kind.status, problem::of_refusal(refusal))
}

/// Single commands are small: they come as they are.
pub(super) fn refuse_encoding(call: &Call) -> Result<(), Problem> {
    if encoding(call)? == Encoding::Plain {
        return Ok(());
    }
    Err(Problem::new(
        Kind::MEDIA,
        "a single command comes without Content-Encoding; compress streams of application/x-ndjson",
    ))
}

fn encoding(call: &Call) -> Result<Encoding, Problem> {
    let Some(value) = call.parts.headers.get(header::CONTENT_ENCODING) else {
        return Ok(Encoding::Plain);
    };
    match value
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "identity" => Ok(Encoding::Plain),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        other => Err(Problem::new(
            Kind::MEDIA,
            format!("Content-Encoding {other:?} is not taken; send gzip, zstd or none"),
        )),
    }
}
