//! Bodies and heads of answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use crate::wire::problem::{self, Problem};

/// Seconds after which a client at a bound should come again: a bound is cleared within a few syncs.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// The answer's body: whole, so that its length is known, or piece by piece.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What instances say to each other.
pub(crate) const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

fn answer(status: u16, media: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).expect("every status here is a literal of HTTP");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

/// A whole answer.
pub(crate) fn whole(status: u16, media: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    answer(status, media, Body::Whole(Some(body.into())))
}

/// A whole answer in JSON.
pub(crate) fn json(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    whole(status, JSON, body)
}

/// An answer whose pieces follow.
pub(crate) fn pieces(media: HeaderValue, pieces: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = answer(200, media, Body::Pieces(pieces));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A problem as an answer.
pub(crate) fn problem(problem: &Problem) -> Response<Body> {
    problem_body(problem.kind.status, problem.body())
}

/// A body in the form of a problem.
pub(crate) fn problem_body(status: u16, body: Vec<u8>) -> Response<Body> {
    let mut response = whole(status, HeaderValue::from_static(problem::MEDIA_TYPE), body);
    if status == 429 || status == 503 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}

/// The same answer with one more header. A value that cannot stand in a header is left out.
pub(crate) fn with_header(
    mut response: Response<Body>,
    name: HeaderName,
    value: &str,
) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
