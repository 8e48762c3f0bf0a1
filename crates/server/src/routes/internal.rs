//! What instances ask of each other. See [`crate::peers`].

use std::sync::Arc;

use hyper::Response;

use super::Call;
use crate::app::App;
use crate::http::respond::Body;
use crate::peers::{asking, packs};
use crate::wire::problem::Problem;

pub(super) async fn query(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    let limits = &app.limits;
    let body = call
        .body(asking::QUESTION_BYTES_MAX, limits.request_idle)
        .await?;
    asking::answer(app, &body).await
}

pub(super) async fn packs(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    let limits = &app.limits;
    let body = call
        .body(packs::REQUEST_BYTES_MAX, limits.request_idle)
        .await?;
    packs::answer(app, body).await
}
