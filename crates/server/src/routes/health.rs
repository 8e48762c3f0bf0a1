//! `/livez` and `/readyz`.

use std::sync::Arc;

use hyper::Response;

use super::Call;
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::wire::problem::{Kind, Problem};
use crate::wire::write::Object;

/// The answer of a process that runs.
pub(crate) const LIVE: &[u8] = b"{\"status\":\"live\"}";

pub(super) fn live(call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    Ok(respond::json(200, LIVE))
}

/// Ready: taking work, with space to write, and everything restored that is this instance's. One that has
/// its log for itself was restored before the first connection; one that shares it is ready once it takes
/// part among the others and everything assigned to it is open.
pub(super) fn ready(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let verbose = call.query.flag("verbose")?;
    call.query.finish()?;
    let log = app.engine.log.stats();
    let worker = app.engine.stats();
    let checks = [
        (
            "serving",
            app.is_ready(),
            "the node is shutting down; use another one",
        ),
        (
            "placement",
            app.is_placed(),
            "this instance is joining the others, or not everything assigned to it is open yet; GET \
             /v1/cluster shows what",
        ),
        (
            "space",
            !log.out_of_space,
            "there is no space for new work; free disk space",
        ),
        (
            "partitions",
            worker.stopped_tasks == 0,
            "a partition stopped; look into the node's log",
        ),
    ];
    let failed = checks.iter().find(|(_, good, _)| !good);
    if !verbose && let Some((_, _, why)) = failed {
        return Err(Problem::new(Kind::STOPPED, *why));
    }
    let mut out = Vec::new();
    let mut object = Object::open(&mut out);
    object.text(
        "status",
        if failed.is_none() {
            "ready"
        } else {
            "not_ready"
        },
    );
    if verbose {
        let mut listed = Object::open(object.key("checks"));
        for (name, good, why) in checks {
            listed.text(name, if good { "ok" } else { why });
        }
        listed.close();
        object
            .uint("partitions", u64::from(app.engine.partitions))
            .uint("appends_pending", log.pending)
            .uint("inbox_bytes", worker.inbox_bytes)
            .uint("log_bytes", log.bytes);
    }
    object.close();
    Ok(respond::json(if failed.is_none() { 200 } else { 503 }, out))
}
