//! What each address answers, one file per thing asked for.

mod changes;
mod cluster;
mod commands;
mod conflicts;
mod health;
mod history;
mod internal;
mod metrics;
mod openapi;
mod outcomes;
mod page;
mod past;
mod reservations;
mod stock;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};

use crate::app::App;
use crate::http::request::{self, Query};
use crate::http::respond::{self, Body};
use crate::http::router::{self, Endpoint};
use crate::peers::forward;
use crate::wire::problem::{Kind, Problem};

/// A request on its way to its endpoint.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) parts: Parts,
    /// The segments that the route's template names.
    named: Vec<String>,
    query: Query,
    body: Sent,
}

/// The body of a request.
#[derive(Debug)]
enum Sent {
    Coming(Incoming),
    /// It was read, and may be needed again where the request is handed on.
    Read(Bytes),
    /// It is read as a stream, once.
    Taken,
}

impl Call {
    /// The segment at that place of the template.
    fn named(&mut self, place: usize) -> String {
        self.named
            .get_mut(place)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The whole body, of at most `max` bytes.
    async fn body(&mut self, max: usize, idle: Duration) -> Result<Bytes, Problem> {
        if let Sent::Coming(_) = &self.body
            && let Sent::Coming(incoming) = std::mem::replace(&mut self.body, Sent::Taken)
        {
            self.body = Sent::Read(request::body(incoming, max, idle).await?);
        }
        Ok(self.sent())
    }

    /// The body, to be read as it comes. `None` where somebody has read it.
    fn stream(&mut self) -> Option<Incoming> {
        match std::mem::replace(&mut self.body, Sent::Taken) {
            Sent::Coming(incoming) => Some(incoming),
            Sent::Read(_) | Sent::Taken => None,
        }
    }

    /// The body as far as somebody read it whole.
    pub(crate) fn sent(&self) -> Bytes {
        match &self.body {
            Sent::Read(body) => body.clone(),
            Sent::Coming(_) | Sent::Taken => Bytes::new(),
        }
    }

    /// As it came, to be answered anew.
    pub(crate) fn rewind(&mut self) -> Result<(), Problem> {
        (_, self.named) = router::find(&self.parts.method, self.parts.uri.path())?;
        self.query = Query::parse(self.parts.uri.query())?;
        Ok(())
    }
}

/// Answers any request.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let head = *request.method() == Method::HEAD;
    let mut response = match dispatch(app, request).await {
        Ok(response) => response,
        Err(problem) if problem.kind == Kind::METHOD => {
            let allow = problem
                .detail
                .trim_start_matches("this address takes ")
                .to_owned();
            respond::with_header(respond::problem(&problem), header::ALLOW, &allow)
        }
        Err(problem) => respond::problem(&problem),
    };
    if head {
        *response.body_mut() = Body::Whole(None);
    }
    response
}

async fn dispatch(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
    let (parts, body) = request.into_parts();
    let (endpoint, named) = router::find(&parts.method, parts.uri.path())?;
    let begins_something = parts.method == Method::POST || endpoint == Endpoint::Changes;
    if begins_something && !app.is_ready() {
        return Err(Problem::new(
            Kind::STOPPED,
            "the node is shutting down; use another one",
        ));
    }
    let query = Query::parse(parts.uri.query())?;
    let mut call = Call {
        parts,
        named,
        query,
        body: Sent::Coming(body),
    };
    let answered = run(app, endpoint, &mut call).await;
    match answered {
        Err(problem) if problem.moved.is_some() => {
            Box::pin(elsewhere(app, endpoint, &mut call, problem)).await
        }
        answered => answered,
    }
}

/// What is not open here is asked of its owner, unless the request comes from another instance already.
async fn elsewhere(
    app: &Arc<App>,
    endpoint: Endpoint,
    call: &mut Call,
    moved: Problem,
) -> Result<Response<Body>, Problem> {
    match moved.moved {
        Some(partition) if !call.parts.headers.contains_key(forward::FORWARDED) => {
            forward::whole(app, endpoint, call, partition).await
        }
        _ => Err(moved),
    }
}

/// Answers from what is here.
pub(crate) async fn run(
    app: &Arc<App>,
    endpoint: Endpoint,
    call: &mut Call,
) -> Result<Response<Body>, Problem> {
    if endpoint == Endpoint::Commands {
        return commands::post(app, call).await;
    }
    // Boxed, so that the future of the hot path above stays small.
    Box::pin(other(app, endpoint, call)).await
}

async fn other(
    app: &Arc<App>,
    endpoint: Endpoint,
    call: &mut Call,
) -> Result<Response<Body>, Problem> {
    match endpoint {
        Endpoint::Commands => commands::post(app, call).await,
        Endpoint::StockList => stock::list(app, call).await,
        Endpoint::StockOfSku => stock::of_sku(app, call).await,
        Endpoint::StockOfSkuAtLocation => stock::at_location(app, call).await,
        Endpoint::History => history::get(app, call).await,
        Endpoint::ReservationCreate => reservations::create(app, call).await,
        Endpoint::ReservationList => reservations::list(app, call).await,
        Endpoint::ReservationGet => reservations::get(app, call).await,
        Endpoint::ReservationConfirm => reservations::confirm(app, call).await,
        Endpoint::ReservationRelease => reservations::release(app, call).await,
        Endpoint::ReservationExtend => reservations::extend(app, call).await,
        Endpoint::ReservationTransfer => Err(reservations::transfer()),
        Endpoint::Outcomes => outcomes::get(app, call).await,
        Endpoint::Conflicts => conflicts::list(app, call).await,
        Endpoint::Changes => changes::get(app, call).await,
        Endpoint::ChangesSocket => Err(changes::socket()),
        Endpoint::Topics => topics::list(app, call).await,
        Endpoint::TopicRecords => topics::records(app, call).await,
        Endpoint::Cluster => cluster::get(app, call),
        Endpoint::OpenApi => openapi::get(call),
        Endpoint::Live => health::live(call),
        Endpoint::Ready => health::ready(app, call),
        Endpoint::Metrics => metrics::get(app, call).await,
        Endpoint::InternalQuery => internal::query(app, call).await,
        Endpoint::InternalPacks => internal::packs(app, call).await,
    }
}

pub(crate) use health::LIVE;

/// The header that says that an outcome is repeated.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
