//! `GET /v1/changes`: the feed.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Response;
use hyper::header::{self, HeaderValue};
use tokio::sync::{Notify, mpsc};

use super::Call;
use crate::app::App;
use crate::feed::catch_up::Seen;
use crate::feed::frame::{Filter, Form, SKUS_MAX};
use crate::feed::reader::{self, Wanted};
use crate::http::listen::Cut;
use crate::http::respond::{self, Body};
use crate::peers::question::Number;
use crate::position::Position;
use crate::stale::Stale;
use crate::wire::problem::{Kind, Problem};

const SSE: HeaderValue = HeaderValue::from_static("text/event-stream");

pub(super) async fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let form = form(call)?;
    let filter = Filter {
        skus: call.query.all("sku"),
        location: call.query.one("location")?,
    };
    if filter.skus.len() > SKUS_MAX {
        return Err(Problem::parameter(
            "sku",
            format!("comes more than {SKUS_MAX} times; read all"),
        ));
    }
    let since = call.query.one("since")?;
    let snapshot = call.query.flag("snapshot")?;
    call.query.finish()?;
    let last = call.parts.headers.get("last-event-id").map(|value| {
        value.to_str().map(str::to_owned).map_err(|_| {
            Problem::parameter(
                "Last-Event-ID",
                "is no position; send one as it was received",
            )
        })
    });
    // A browser that comes again sends both: where it was beats where it once began.
    let resumes = match last.transpose()?.filter(|last| !last.is_empty()) {
        Some(last) => Some(("Last-Event-ID", last)),
        None => since.map(|since| ("since", since)),
    };
    let from = match &resumes {
        None => None,
        Some((_, word)) if word == "latest" => None,
        Some((_, word)) if word == "earliest" => Some(earliest(app).await?),
        Some((name, token)) => Some(resume(app, name, token, &filter).await?),
    };
    let begins = from.is_some();
    // Who resumes behind a snapshot has the levels: taking them anew would repeat what it has.
    let snapshot = snapshot && !matches!(resumes, Some(("Last-Event-ID", _)));
    if snapshot && begins {
        return Err(Problem::parameter(
            "since",
            "comes together with snapshot=true, which begins at what is newest; send one of them",
        ));
    }
    let place = Arc::clone(&app.readers).try_acquire_owned().map_err(|_| {
        let max = app.limits.feed_readers;
        Problem::new(
            Kind::TOO_MANY,
            format!("{max} feeds are open; try again when one ended"),
        )
    })?;
    // Settled before the answer's head leaves: what is sent after it was seen is in the feed.
    let from = match from {
        Some(from) => from,
        None => newest(app).await?,
    };
    let cut = call
        .parts
        .extensions
        .remove::<Cut>()
        .map_or_else(|| Arc::new(Notify::new()), |c| c.0);
    // One more than the pieces that may wait: the closing line always has room.
    let (pieces, answer) = mpsc::channel(app.limits.feed_queue + 1);
    let wanted = Wanted {
        filter,
        form,
        from,
        is_new: !begins,
        snapshot,
    };
    tokio::spawn(reader::serve(Arc::clone(app), wanted, pieces, place, cut));
    let media = match form {
        Form::Sse => SSE,
        Form::Ndjson => respond::NDJSON,
    };
    Ok(respond::pieces(media, answer))
}

pub(super) fn socket() -> Problem {
    Problem::new(
        Kind::NOT_AVAILABLE,
        "WebSocket is not available in this version; follow GET /v1/changes as server-sent events \
         or NDJSON",
    )
}

fn form(call: &Call) -> Result<Form, Problem> {
    let accept = call
        .parts
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("*/*")
        .to_ascii_lowercase();
    for media in accept.split(',') {
        match media.split(';').next().unwrap_or_default().trim() {
            "text/event-stream" | "text/*" | "*/*" | "" => return Ok(Form::Sse),
            "application/x-ndjson" | "application/ndjson" | "application/*" => {
                return Ok(Form::Ndjson);
            }
            _ => {}
        }
    }
    Err(Problem::parameter(
        "Accept",
        "names nothing that a feed can be; send text/event-stream or application/x-ndjson",
    ))
}

/// Behind everything durable.
async fn newest(app: &App) -> Result<Seen, Problem> {
    let newest = app.engine.newest().await?;
    let numbers = newest.numbers.iter().map(|(_, number)| *number).collect();
    Ok(Seen {
        epoch: newest.epoch,
        numbers,
        partly: None,
    })
}

/// Where the oldest decisions held begin.
async fn earliest(app: &App) -> Result<Seen, Problem> {
    let partitions = app.engine.partitions;
    let numbers = app
        .engine
        .scan(move |log| {
            (0..partitions)
                .map(|partition| {
                    let oldest = log.oldest(partition)?;
                    Ok(oldest.map_or(0, |pack| pack.first.saturating_sub(1)))
                })
                .collect::<Result<Vec<u64>, _>>()
        })
        .await?;
    Ok(Seen {
        epoch: app.engine.epoch,
        numbers,
        partly: None,
    })
}

/// Whether the decision of that number, which was none a moment ago, is one by now.
async fn is_there(app: &App, partition: u16, number: u64) -> Result<bool, Problem> {
    let mut newest = BTreeMap::new();
    let current = Stale::default();
    let here = app
        .engine
        .ask_here(vec![partition], &Number, &mut newest, &current);
    here.await?;
    match newest.get(&partition) {
        // The partition may have opened here since the log was asked, and shows less than its owner knows.
        Some(newest) => Ok(number <= *newest),
        // What an owner elsewhere has answered with may be a moment away here.
        None => app.engine.shows(partition, number).await,
    }
}

/// Where that position is, if it can be resumed from.
async fn resume(app: &App, name: &str, token: &str, filter: &Filter) -> Result<Seen, Problem> {
    let position = Position::parse(token).map_err(|why| Problem::parameter(name, why))?;
    let gone = |why: &str| {
        Problem::new(
            Kind::GONE,
            format!("{why}; take a snapshot with snapshot=true"),
        )
    };
    if position.epoch != app.engine.epoch {
        return Err(gone("the position is of another epoch of this log"));
    }
    let newest = app.engine.newest().await?;
    let mut numbers: Vec<u64> = newest.numbers.iter().map(|(_, number)| *number).collect();
    let partitions = app.engine.partitions;
    let whole = position
        .numbers
        .iter()
        .all(|(partition, _)| *partition < partitions)
        && (!position.whole || position.numbers.len() == usize::from(partitions));
    if !whole {
        return Err(gone("the position is of a log with other partitions"));
    }
    let oldest = earliest(app).await?;
    for (partition, newest) in (0u16..).zip(numbers.iter_mut()) {
        let wanted = filter.skus.is_empty()
            || filter
                .skus
                .iter()
                .any(|sku| app.engine.partition_of(sku) == partition);
        match position.number(partition) {
            Some(number) if number > *newest && !is_there(app, partition, number).await? => {
                return Err(gone("the position is ahead of what this log holds"));
            }
            Some(number) if wanted && number < oldest.number(partition) => {
                return Err(gone("what follows the position is not held any more"));
            }
            Some(number) => *newest = number,
            None if wanted => {
                let why = if filter.skus.is_empty() {
                    "does not speak of all SKUs; send a feed's position, or keep to its own SKU \
                     with sku="
                } else {
                    "does not speak of the SKUs asked for; send a feed's position, or one of a \
                     level, outcome or history line of each of them"
                };
                return Err(Problem::parameter(name, why));
            }
            // Nothing of it passes the filter: where it stands does not matter.
            None => {}
        }
    }
    let mut seen = Seen {
        epoch: position.epoch,
        numbers,
        partly: position.place,
    };
    if let Some(place) = position.place {
        // Seen whole is only what is before that decision.
        let number = seen.number(place.partition);
        if let Some(slot) = seen.numbers.get_mut(usize::from(place.partition)) {
            *slot = number.saturating_sub(1);
        }
    }
    Ok(seen)
}
