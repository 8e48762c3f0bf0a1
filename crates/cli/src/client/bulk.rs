//! Streaming NDJSON upload: lines go out while the answer's lines come in.

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::{Answer, Client, Upload};

/// Pieces of an upload waiting for the socket: enough to keep it busy while the next is made.
const PIECES_WAITING: usize = 4;
/// The longest line taken from an answer. A node's outcome lines are a few hundred bytes, a
/// level's about as many; a history line with its data stays far below this.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 20;

/// A body that arrives as lines.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Incoming) -> Lines {
        Lines {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; `None` after the last. A last line without an end counts.
    ///
    /// Cancel safe: what has been read stays in the buffer.
    ///
    /// # Errors
    /// When the connection breaks, or a line is longer than [`LINE_BYTES_MAX`].
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Option<Bytes>> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|&b| b == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            anyhow::ensure!(
                self.searched <= LINE_BYTES_MAX,
                "the node's answer has a line above {LINE_BYTES_MAX} bytes; check that --url \
                 points at an onhand node of this version"
            );
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(client.broken(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

/// Where the pieces of an upload go. Dropping it ends the upload.
pub(crate) type Pieces = mpsc::Sender<Bytes>;

/// The answer to an upload.
#[derive(Debug)]
pub(crate) enum BulkAnswer {
    /// Outcome lines follow; the last is the totals.
    Lines(Lines),
    /// Refused before the first line.
    Refused(Answer),
}

impl Client {
    /// Starts `POST /v1/commands` with NDJSON. The pieces must be fed and the answer awaited at
    /// the same time: the node may answer before the upload ends, and waits with its answer for
    /// more input where it needs some.
    pub(crate) fn upload(
        &self,
        path: &str,
    ) -> (Pieces, impl Future<Output = Result<BulkAnswer>> + use<'_>) {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        let path = path.to_owned();
        let answer = async move {
            let kind = HeaderValue::from_static("application/x-ndjson");
            let headers = [(CONTENT_TYPE, kind.clone()), (ACCEPT, kind)];
            let upload = Upload::Fed(receiver);
            let response = self.open(&Method::POST, &path, upload, &headers).await?;
            let (head, body) = response.into_parts();
            if head.status == StatusCode::OK {
                return Ok(BulkAnswer::Lines(Lines::new(body)));
            }
            let body = http_body_util::Limited::new(body, super::ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|e| self.broken(&*e))?
                .to_bytes();
            Ok(BulkAnswer::Refused(Answer {
                status: head.status,
                headers: head.headers,
                body,
            }))
        };
        (sender, answer)
    }
}
