//! `/openapi.json`: the API's description.

use hyper::Response;

use super::Call;
use crate::http::respond::{self, Body};
use crate::wire::problem::Problem;

/// The committed description; a test compares it with the table of addresses.
const DOCUMENT: &str = include_str!("../../openapi.json");

pub(super) fn get(call: Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    Ok(respond::json(200, DOCUMENT))
}
