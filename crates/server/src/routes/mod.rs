//! What each address answers, one file per thing asked for.

mod changes;
mod commands;
mod conflicts;
mod health;
mod history;
mod metrics;
mod openapi;
mod outcomes;
mod page;
mod past;
mod reservations;
mod stock;
mod topics;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};

use crate::app::App;
use crate::http::request::Query;
use crate::http::respond::{self, Body};
use crate::http::router::{self, Endpoint};
use crate::wire::problem::{Kind, Problem};

/// A request on its way to its endpoint.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) parts: Parts,
    /// The segments that the route's template names.
    pub(crate) named: Vec<String>,
    pub(crate) query: Query,
    pub(crate) body: Incoming,
}

impl Call {
    /// The segment at that place of the template.
    fn named(&mut self, place: usize) -> String {
        self.named
            .get_mut(place)
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

/// Answers any request.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let head = *request.method() == Method::HEAD;
    match dispatch(app, request).await {
        Ok(mut response) => {
            if head {
                *response.body_mut() = Body::Whole(None);
            }
            response
        }
        Err(problem) => {
            let response = respond::problem(&problem);
            if problem.kind == Kind::METHOD {
                let allow = problem
                    .detail
                    .trim_start_matches("this address takes ")
                    .to_owned();
                return respond::with_header(response, header::ALLOW, &allow);
            }
            response
        }
    }
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
    let call = Call {
        parts,
        named,
        query,
        body,
    };
    if endpoint == Endpoint::Commands {
        return commands::post(app, call).await;
    }
    // Boxed, so that the future of the hot path above stays small.
    Box::pin(other(app, endpoint, call)).await
}

async fn other(app: &Arc<App>, endpoint: Endpoint, call: Call) -> Result<Response<Body>, Problem> {
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
        Endpoint::Topics => topics::list(app, call),
        Endpoint::TopicRecords => topics::records(app, call).await,
        Endpoint::OpenApi => openapi::get(call),
        Endpoint::Live => health::live(call),
        Endpoint::Ready => health::ready(app, call),
        Endpoint::Metrics => metrics::get(app, call).await,
    }
}

/// The header that says that an outcome is repeated.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
