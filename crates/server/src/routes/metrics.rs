//! `/metrics`: figures in the text form that Prometheus reads.

use std::sync::Arc;

use hyper::Response;
use hyper::header::HeaderValue;

use super::Call;
use crate::app::App;
use crate::engine::internal;
use crate::http::respond::{self, Body};
use crate::metrics;
use crate::wire::problem::Problem;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(super) async fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    let held = metrics::held(&app.engine).await?;
    let text = metrics::render(app, &held)
        .map_err(|error| internal(format!("figures could not be written: {error}")))?;
    Ok(respond::whole(200, OPEN_METRICS, text))
}
