//! A request about one key, handed on as it came to the instance that owns the key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use onhand_log::cluster::{Member, Membership};

use super::Patience;
use super::pool::{Trouble, Whole};
use crate::app::App;
use crate::engine::internal;
use crate::http::respond::{self, Body};
use crate::http::router::Endpoint;
use crate::intake::single::unknown_end;
use crate::routes::{self, Call};
use crate::wire::problem::{self, Kind, Problem};

/// Says that a request comes from another instance, and which: it is not handed on again.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("onhand-forwarded");

/// What of a request's head its answer depends on. All of it goes on, repeated headers too.
const PASSED: [HeaderName; 6] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
];

/// What of an answer's head is about its connection, or is written anew.
const OWN: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// An answer by which nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The partition has moved, or the instance takes no work: another one will.
    Passing,
    /// Somebody else would be told the same.
    Final,
}

/// Hands the request on until somebody answers it. `call` has what it takes to do it again.
pub(crate) async fn whole(
    app: &Arc<App>,
    endpoint: Endpoint,
    call: &mut Call,
    partition: u16,
) -> Result<Response<Body>, Problem> {
    let wait = app.limits.forward_wait;
    let mut patience = Patience::new(wait);
    let is_read = [Method::GET, Method::HEAD].contains(&call.parts.method);
    loop {
        let membership = app.engine.cluster.membership();
        match membership.answers(partition) {
            // It moved here meanwhile.
            Some(member) if is_me(&membership, member) && app.engine.is_open(partition) => {
                call.rewind()?;
                match routes::run(app, endpoint, call).await {
                    Err(problem) if problem.moved.is_some() => {}
                    answered => return answered,
                }
            }
            Some(member) if !is_me(&membership, member) => {
                let request = request(app, call, member)?;
                let patience = app.limits.answer_wait + wait;
                match app.engine.peers.exchange(member, request, patience).await {
                    Ok(reply) if refusal(&reply) != Some(Refusal::Passing) => {
                        app.metrics.forwarded();
                        return Ok(passed(reply));
                    }
                    Ok(_) => {}
                    Err(Trouble::NotSent(why)) => tracing::debug!(why, "request not forwarded"),
                    Err(Trouble::Unknown(why)) if is_read => {
                        tracing::debug!(why, "read is asked again");
                    }
                    Err(Trouble::Unknown(why)) => {
                        return Err(unknown_end(format!(
                            "{why}; send it again with the same id"
                        )));
                    }
                }
            }
            // About to be opened here, or nobody's.
            _ => {}
        }
        if !patience.goes_on().await {
            return Err(no_owner(partition, wait));
        }
    }
}

fn is_me(membership: &Membership, member: &Member) -> bool {
    let me = membership.me.and_then(|me| membership.members.get(me));
    me.is_some_and(|me| me.incarnation == member.incarnation)
}

/// Nobody answered for that partition in time.
pub(crate) fn no_owner(partition: u16, wait: Duration) -> Problem {
    let seconds = wait.as_secs();
    Problem::new(
        Kind::NO_OWNER,
        format!(
            "the owner of partition {partition} could not be reached within {seconds} s, and \
             nothing was taken; try again, and look at GET /v1/cluster"
        ),
    )
}

/// What a refusal says about trying again; `None`: it is an answer.
pub(crate) fn refusal(reply: &Whole) -> Option<Refusal> {
    if reply.head.status.is_success() {
        return None;
    }
    let passing = match reply.head.status.as_u16() {
        421 => true,
        503 => problem::is_of(&reply.body, Kind::STOPPED),
        _ => false,
    };
    Some(if passing {
        Refusal::Passing
    } else {
        Refusal::Final
    })
}

fn request(app: &App, call: &Call, member: &Member) -> Result<Request<Full<Bytes>>, Problem> {
    let path = call.parts.uri.path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let mut request = Request::new(Full::new(call.sent()));
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = path.parse().map_err(internal)?;
    for name in PASSED {
        for value in call.parts.headers.get_all(&name) {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    head(request.headers_mut(), &app.engine.instance, member)?;
    Ok(request)
}

/// A request between instances.
pub(crate) fn internal_request(
    instance: &str,
    to: &Member,
    address: &'static str,
    body: Vec<u8>,
) -> Result<Request<Full<Bytes>>, Problem> {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static(address);
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, respond::BYTES);
    head(request.headers_mut(), instance, to)?;
    Ok(request)
}

fn head(headers: &mut hyper::HeaderMap, instance: &str, to: &Member) -> Result<(), Problem> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(internal);
    headers.insert(header::HOST, value(&to.address)?);
    headers.insert(FORWARDED, value(instance)?);
    Ok(())
}

/// The owner's answer, as it is.
fn passed(reply: Whole) -> Response<Body> {
    let mut response = Response::new(match reply.head.status {
        StatusCode::NO_CONTENT => Body::Whole(None),
        _ => Body::Whole(Some(reply.body)),
    });
    *response.status_mut() = reply.head.status;
    *response.headers_mut() = reply.head.headers;
    for name in OWN {
        response.headers_mut().remove(name);
    }
    response
}
