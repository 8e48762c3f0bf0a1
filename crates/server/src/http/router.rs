//! Which address is which: one table, from which the API's description is checked too.

use hyper::Method;

use super::request::decode_segment;
use crate::peers::{asking, packs};
use crate::wire::problem::{Kind, Problem};

/// What can be asked of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    Commands,
    StockList,
    StockOfSku,
    StockOfSkuAtLocation,
    History,
    ReservationCreate,
    ReservationList,
    ReservationGet,
    ReservationConfirm,
    ReservationRelease,
    ReservationExtend,
    ReservationTransfer,
    Outcomes,
    Conflicts,
    Changes,
    ChangesSocket,
    Topics,
    TopicRecords,
    Cluster,
    OpenApi,
    Live,
    Ready,
    Metrics,
    InternalQuery,
    InternalPacks,
}

/// A method and an address; segments in braces stand for one percent-encoded segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) template: &'static str,
    pub(crate) endpoint: Endpoint,
}

const fn route(method: &'static str, template: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method,
        template,
        endpoint,
    }
}

/// Every address of the node.
pub(crate) const ROUTES: &[Route] = &[
    route("POST", "/v1/commands", Endpoint::Commands),
    route("GET", "/v1/stock", Endpoint::StockList),
    route("GET", "/v1/stock/{sku}", Endpoint::StockOfSku),
    route(
        "GET",
        "/v1/stock/{sku}/{location}",
        Endpoint::StockOfSkuAtLocation,
    ),
    route("GET", "/v1/history", Endpoint::History),
    route("POST", "/v1/reservations", Endpoint::ReservationCreate),
    route("GET", "/v1/reservations", Endpoint::ReservationList),
    route("GET", "/v1/reservations/{id}", Endpoint::ReservationGet),
    route(
        "POST",
        "/v1/reservations/{id}/confirm",
        Endpoint::ReservationConfirm,
    ),
    route(
        "POST",
        "/v1/reservations/{id}/release",
        Endpoint::ReservationRelease,
    ),
    route(
        "POST",
        "/v1/reservations/{id}/extend",
        Endpoint::ReservationExtend,
    ),
    route(
        "POST",
        "/v1/reservations/{id}/transfer",
        Endpoint::ReservationTransfer,
    ),
    route("GET", "/v1/outcomes", Endpoint::Outcomes),
    route("GET", "/v1/conflicts", Endpoint::Conflicts),
    route("GET", "/v1/changes", Endpoint::Changes),
    route("GET", "/v1/changes/ws", Endpoint::ChangesSocket),
    route("GET", "/v1/topics", Endpoint::Topics),
    route("GET", "/v1/topics/{topic}/records", Endpoint::TopicRecords),
    route("GET", "/v1/cluster", Endpoint::Cluster),
    route("GET", "/openapi.json", Endpoint::OpenApi),
    route("GET", "/livez", Endpoint::Live),
    route("GET", "/readyz", Endpoint::Ready),
    route("GET", "/metrics", Endpoint::Metrics),
];

/// What instances ask of each other; see [`crate::peers`]. No part of the API.
const INTERNAL: &[Route] = &[
    route("POST", asking::ADDRESS, Endpoint::InternalQuery),
    route("POST", packs::ADDRESS, Endpoint::InternalPacks),
];

/// Finds the endpoint and the decoded segments that its template names.
pub(crate) fn find(method: &Method, path: &str) -> Result<(Endpoint, Vec<String>), Problem> {
    let mut elsewhere: Vec<&str> = Vec::new();
    for route in ROUTES.iter().chain(INTERNAL) {
        let Some(segments) = matches(route.template, path) else {
            continue;
        };
        let same =
            route.method == method.as_str() || (route.method == "GET" && *method == Method::HEAD);
        if same {
            let segments = segments
                .into_iter()
                .map(decode_segment)
                .collect::<Result<_, _>>()?;
            return Ok((route.endpoint, segments));
        }
        elsewhere.push(route.method);
    }
    if elsewhere.is_empty() {
        return Err(Problem::new(
            Kind::NO_ROUTE,
            "there is nothing at this address; GET /openapi.json lists what there is",
        ));
    }
    let methods = elsewhere.join(", ");
    Err(Problem::new(Kind::METHOD, format!("this address takes {methods}")).with("allow", &methods))
}

/// The segments that stand where the template has braces, if the path is of that shape.
fn matches<'p>(template: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut named = Vec::new();
    let mut parts = path.split('/');
    for expected in template.split('/') {
        let part = parts.next()?;
        if expected.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            named.push(part);
        } else if expected != part {
            return None;
        }
    }
    parts.next().is_none().then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_one_by_one() {
        let (endpoint, named) = find(&Method::GET, "/v1/stock/a%2Fb/l%20x").unwrap();
        assert_eq!(endpoint, Endpoint::StockOfSkuAtLocation);
        assert_eq!(named, ["a/b", "l x"]);
    }

    #[test]
    fn unknown_addresses_and_methods_are_told_apart() {
        assert_eq!(
            find(&Method::GET, "/v1/nothing").unwrap_err().kind,
            Kind::NO_ROUTE
        );
        assert_eq!(
            find(&Method::GET, "/v1/stock/").unwrap_err().kind,
            Kind::NO_ROUTE
        );
        let problem = find(&Method::DELETE, "/v1/reservations").unwrap_err();
        assert_eq!(problem.kind, Kind::METHOD);
        assert!(problem.detail.contains("POST, GET"), "{}", problem.detail);
    }
}
