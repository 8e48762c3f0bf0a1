//! A small HTTP/1.1 client for one node: JSON calls on a kept-alive connection, streaming NDJSON
//! upload with its answer read meanwhile ([`bulk`]), and feeds that resume ([`feed`]).
//!
//! It speaks plain http only. TLS belongs to a proxy in front of the node until the node has it.

pub(crate) mod bulk;
pub(crate) mod feed;
pub(crate) mod problem;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::stop;

/// Where a node listens unless told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7171";
/// How long a connection may take to be made: a node on the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest whole answer kept in memory. Lists come in pages far below it.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The characters that stand as they are in a path segment or a query value (RFC 3986).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One path segment or query value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A path with its query, built piece by piece.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    text: String,
    separator: char,
}

impl Query {
    /// Starts with a path whose segments are encoded already.
    pub(crate) fn new(path: impl Into<String>) -> Query {
        Query {
            text: path.into(),
            separator: '?',
        }
    }

    /// Adds `name=value`.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Query {
        self.text.push(self.separator);
        self.separator = '&';
        self.text.push_str(name);
        self.text.push('=');
        self.text.push_str(&encode(value));
        self
    }

    /// Adds `name=value` where there is a value.
    #[must_use]
    pub(crate) fn maybe(self, name: &str, value: Option<&str>) -> Query {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// A node's address, taken from `http://host:port[/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// What to connect to, `host:port`.
    pub(crate) authority: String,
    /// A path in front of every route (a proxy's), without a slash at its end.
    prefix: String,
}

impl Address {
    /// # Errors
    /// Usage, for anything but plain http.
    fn parse(url: &str) -> Result<Address> {
        if url.starts_with("https://") {
            return Err(stop::usage(format!(
                "{url}: this client speaks plain http only; give the node's http:// address, or \
                 put a proxy on this machine that speaks TLS to it"
            )));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(stop::usage(format!(
                "{url:?} is not the address of a node; give --url {DEFAULT_URL} or the like"
            )));
        };
        let (host, prefix) = match rest.split_once('/') {
            Some((host, prefix)) => (host, format!("/{}", prefix.trim_end_matches('/'))),
            None => (rest, String::new()),
        };
        let plain = |b: u8| b.is_ascii_graphic() && !b"@?#".contains(&b);
        if host.is_empty() || !rest.bytes().all(plain) {
            return Err(stop::usage(format!(
                "{url:?} is not the address of a node: it must be http://HOST:PORT; give --url \
                 {DEFAULT_URL} or the like"
            )));
        }
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let authority = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        Ok(Address {
            authority,
            prefix: if prefix == "/" { String::new() } else { prefix },
        })
    }
}

/// The body of a request: whole, or fed piece by piece while it is sent.
#[derive(Debug)]
pub(crate) enum Upload {
    Whole(Option<Bytes>),
    Fed(mpsc::Receiver<Bytes>),
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Upload::Whole(bytes) => Poll::Ready(bytes.take()),
            Upload::Fed(receiver) => receiver.poll_recv(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Upload::Fed(_) => SizeHint::default(),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as `T`.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!(
                "the node's answer (status {}) is not what this client expects: {}; check that \
                 --url points at an onhand node of this version",
                self.status.as_u16(),
                excerpt(&self.body),
            )
        })
    }
}

/// The beginning of an unexpected body, for an error's text.
fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(body.get(..SHOWN.min(body.len())).unwrap_or_default());
    if text.trim().is_empty() {
        "(empty)".to_owned()
    } else {
        text.trim().to_owned()
    }
}

/// One node, and the connection to it that is kept alive between calls.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    url: String,
    patience: Duration,
    idle: Mutex<Option<SendRequest<Upload>>>,
}

impl Client {
    /// `patience` bounds one call, from sending to the last byte of its answer.
    ///
    /// # Errors
    /// Usage, when the URL is not plain http.
    pub(crate) fn new(url: &str, patience: Duration) -> Result<Client> {
        let address = Address::parse(url)?;
        Ok(Client {
            address,
            url: url.to_owned(),
            patience,
            idle: Mutex::new(None),
        })
    }

    /// What the user calls the node.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `host:port` of the node.
    pub(crate) fn authority(&self) -> &str {
        &self.address.authority
    }

    /// How long one answer may take.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Another client of the same node, with a connection of its own.
    pub(crate) fn another(&self) -> Client {
        Client {
            address: self.address.clone(),
            url: self.url.clone(),
            patience: self.patience,
            idle: Mutex::new(None),
        }
    }

    /// `GET`, whatever the answer's status.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `GET` of something that must be there: any other status than 200 is an error.
    pub(crate) async fn fetch(&self, path: &str) -> Result<Answer> {
        let answer = self.get(path).await?;
        if answer.status == StatusCode::OK {
            Ok(answer)
        } else {
            Err(problem::error(&answer))
        }
    }

    /// `POST` of JSON, whatever the answer's status. What is posted must be harmless to repeat
    /// (every command is, by its id): it is sent once more when a kept connection turns out dead.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer> {
        let body = serde_json::to_vec(body).context("cannot write the request as JSON")?;
        self.call(Method::POST, path, Bytes::from(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let attempt = async {
            let kept = self.idle.lock().await.take();
            if let Some(mut sender) = kept
                && sender.ready().await.is_ok()
            {
                let request = self.request(&method, path, Upload::Whole(Some(body.clone())))?;
                // A kept connection may have been closed by the node while idle: a new one decides.
                if let Ok(answer) = self.exchange(sender, request).await {
                    return Ok(answer);
                }
            }
            let sender = self.connect().await?;
            let request = self.request(&method, path, Upload::Whole(Some(body)))?;
            self.exchange(sender, request).await
        };
        match timeout(self.patience, attempt).await {
            Ok(answer) => answer,
            Err(_) => Err(stop::unreachable(format!(
                "{} did not answer within {} s; look at the node's log, or give it longer with \
                 --timeout",
                self.url,
                self.patience.as_secs()
            ))),
        }
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Upload>,
        request: Request<Upload>,
    ) -> Result<Answer> {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(&e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.broken(&*e))?
            .to_bytes();
        *self.idle.lock().await = Some(sender);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Opens a connection; its task ends when the connection does.
    async fn connect(&self) -> Result<SendRequest<Upload>> {
        let authority = &self.address.authority;
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(authority)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.silent(&error.to_string())),
            Err(_) => {
                let waited = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(self.silent(&waited));
            }
        };
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let (sender, connection) = http1::Builder::new()
            .handshake::<_, Upload>(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(&e))?;
        // Its end is seen by whoever waits for an answer: nothing to report from here.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Sends on a connection of its own and hands back the answer as it arrives.
    async fn open(
        &self,
        method: &Method,
        path: &str,
        upload: Upload,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>> {
        let mut sender = self.connect().await?;
        let mut request = self.request(method, path, upload)?;
        for (name, value) in headers {
            request.headers_mut().insert(name, value.clone());
        }
        sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(&e))
    }

    fn request(&self, method: &Method, path: &str, upload: Upload) -> Result<Request<Upload>> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.prefix))
            .header(HOST, &self.address.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(upload)
            .with_context(|| format!("{path:?} is not a path that can be asked for"))
    }

    /// Nobody listens there.
    fn silent(&self, why: &str) -> anyhow::Error {
        stop::unreachable(format!(
            "nothing answers at {} ({why}); start a node with `onhand serve --data DIR`, or name \
             another with --url",
            self.url
        ))
    }

    /// The connection broke under a call.
    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            why.push_str(": ");
            why.push_str(&cause.to_string());
            source = cause.source();
        }
        stop::unreachable(format!(
            "the connection to {} broke ({why}); whether the last command took effect is not \
             known: send it again with the same id, which is harmless",
            self.url
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_plain_http() {
        let address = Address::parse("http://node:7171").expect("plain");
        assert_eq!(address.authority, "node:7171");
        assert_eq!(address.prefix, "");
        let address = Address::parse("http://[::1]:7171/shop/").expect("plain");
        assert_eq!(
            (address.authority.as_str(), address.prefix.as_str()),
            ("[::1]:7171", "/shop")
        );
        assert_eq!(
            Address::parse("http://node/").expect("plain").authority,
            "node:80"
        );
        for (url, part) in [
            ("https://node", "plain http only"),
            ("node:7171", "--url"),
            ("http://", "HOST:PORT"),
            ("http://a b", "HOST:PORT"),
            ("http://user@node", "HOST:PORT"),
        ] {
            let error = Address::parse(url).expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn a_query_encodes_its_values() {
        let query = Query::new(format!("/v1/stock/{}", encode("a/b c")))
            .with("location", "ä&1")
            .maybe("limit", None)
            .maybe("cursor", Some("x=="));
        assert_eq!(
            query.as_str(),
            "/v1/stock/a%2Fb%20c?location=%C3%A4%261&cursor=x%3D%3D"
        );
    }
}
