//! What stands between the listener and the node: requests are let in while there is one, and told to
//! come again while it begins anew.

use std::sync::{Arc, PoisonError, RwLock};

use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::app::App;
use crate::config::Limits;
use crate::http::respond::{self, Body};
use crate::routes;
use crate::wire::problem::{Kind, Problem};

/// See the module.
#[derive(Debug)]
pub(crate) struct Door {
    app: RwLock<Option<Arc<App>>>,
    pub(crate) limits: Limits,
}

impl Door {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            app: RwLock::new(None),
            limits,
        }
    }

    /// Requests go to that node from here on; `None`: to nobody.
    pub(crate) fn lead_to(&self, app: Option<Arc<App>>) {
        // A place that holds one pointer is right in whatever state a panic left it.
        *self.app.write().unwrap_or_else(PoisonError::into_inner) = app;
    }

    fn app(&self) -> Option<Arc<App>> {
        let app = self.app.read().unwrap_or_else(PoisonError::into_inner);
        app.clone()
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.app() {
            Some(app) => routes::answer(&app, request).await,
            None if request.uri().path() == "/livez" => respond::json(200, routes::LIVE),
            None => respond::problem(&Problem::new(
                Kind::STOPPED,
                "this instance lost its place among the others and begins anew; try again, or use \
                 another one",
            )),
        }
    }
}
