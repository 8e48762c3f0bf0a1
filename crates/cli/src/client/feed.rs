//! The change feed as server-sent events, resumed by position after a broken connection.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::bulk::Lines;
use super::{ANSWER_BYTES_MAX, Answer, Client, Query, Upload, problem};
use crate::stop;

/// A node sends a heartbeat every 15 s; three missed ones mean that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The first pause before connecting again; doubled up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long to go on trying: longer than a node needs to restart.
const RESUME_FOR: Duration = Duration::from_secs(60);

/// Where a feed begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// `earliest`, `latest` or a position.
    Since(String),
    /// The levels first, joined to the changes without gap or overlap.
    Snapshot,
}

/// What a feed brings.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// A level of the snapshot.
    Level(Value),
    /// A change.
    Change(Value),
    /// The snapshot is complete.
    SnapshotEnd,
    /// The connection broke; what follows goes on after the last position, or `anew` with the levels
    /// where the snapshot was not complete.
    Resumed { why: String, anew: bool },
}

/// A reader of the feed. Messages come in order; after a broken connection it goes on after the
/// last position seen, so that none is missed or repeated. A snapshot that was cut begins anew.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    client: &'a Client,
    query: Query,
    start: Start,
    /// The position to resume from, once there is one.
    position: Option<String>,
    lines: Option<Lines>,
    connected_once: bool,
    in_snapshot: bool,
}

/// One server-sent event, gathered line by line.
#[derive(Debug, Default)]
struct Event {
    id: Option<String>,
    name: String,
    data: String,
}

impl Event {
    /// Takes a line in; true when it was the empty one that ends the event.
    fn take(&mut self, line: &[u8]) -> bool {
        if line.is_empty() {
            return true;
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // "retry", comments and what may come later.
            _ => {}
        }
        false
    }
}

impl<'a> Feed<'a> {
    pub(crate) fn new(client: &'a Client, start: Start) -> Feed<'a> {
        let query = Query::new("/v1/changes");
        let in_snapshot = start == Start::Snapshot;
        Feed {
            client,
            query,
            start,
            position: None,
            lines: None,
            connected_once: false,
            in_snapshot,
        }
    }

    /// Keeps to what has this value, where there is one.
    pub(crate) fn only(mut self, name: &str, value: Option<&str>) -> Feed<'a> {
        self.query = self.query.maybe(name, value);
        self
    }

    /// The next message. Waits as long as it takes.
    ///
    /// # Errors
    /// Unreachable when nobody answers at first, or not again within a minute; refused when the
    /// node no longer holds the position.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        let mut event = Event::default();
        loop {
            let Some(lines) = &mut self.lines else {
                if let Some(message) = self.connect().await? {
                    return Ok(message);
                }
                event = Event::default();
                continue;
            };
            let why = match timeout(SILENCE_MAX, lines.next(self.client)).await {
                Ok(Ok(Some(line))) => {
                    if event.take(&line)
                        && let Some(message) = self.read(std::mem::take(&mut event))?
                    {
                        return Ok(message);
                    }
                    continue;
                }
                Ok(Ok(None)) => "the node closed it".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("silent for {} s", SILENCE_MAX.as_secs()),
            };
            self.lines = None;
            self.reconnect(why.clone()).await?;
            return Ok(self.resumed(why));
        }
    }

    fn resumed(&self, why: String) -> Message {
        Message::Resumed {
            why,
            anew: self.in_snapshot,
        }
    }

    /// What an event means; `None` for heartbeats.
    fn read(&mut self, event: Event) -> Result<Option<Message>> {
        if let Some(id) = event.id {
            self.position = Some(id);
        }
        match event.name.as_str() {
            "snapshot_end" => {
                self.in_snapshot = false;
                Ok(Some(Message::SnapshotEnd))
            }
            "level" => Ok(Some(Message::Level(json(&event.data)?))),
            "" | "change" if !event.data.is_empty() => {
                Ok(Some(Message::Change(json(&event.data)?)))
            }
            // Heartbeats, and why the node is about to close: what matters is their position.
            _ => Ok(None),
        }
    }

    async fn connect(&mut self) -> Result<Option<Message>> {
        match self.try_connect().await {
            Ok(()) => {
                self.connected_once = true;
                Ok(None)
            }
            Err(error) if self.connected_once && stop::is_unreachable(&error) => {
                let why = error.to_string();
                self.reconnect(why.clone()).await?;
                Ok(Some(self.resumed(why)))
            }
            Err(error) => Err(error),
        }
    }

    async fn reconnect(&mut self, why: String) -> Result<()> {
        let until = Instant::now() + RESUME_FOR;
        let mut pause = PAUSE_FIRST;
        loop {
            sleep(pause).await;
            match self.try_connect().await {
                Ok(()) => return Ok(()),
                Err(error) if !stop::is_unreachable(&error) => return Err(error),
                Err(error) if Instant::now() >= until => {
                    return Err(error.context(format!(
                        "the feed broke ({why}) and could not be resumed within {} s",
                        RESUME_FOR.as_secs()
                    )));
                }
                Err(_) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    async fn try_connect(&mut self) -> Result<()> {
        let mut headers = vec![(ACCEPT, HeaderValue::from_static("text/event-stream"))];
        let query = match (&self.position, &self.start) {
            (Some(position), _) if !self.in_snapshot => {
                if let Ok(value) = HeaderValue::from_str(position) {
                    headers.push((HeaderName::from_static("last-event-id"), value));
                }
                self.query.clone().with("since", position)
            }
            (_, Start::Snapshot) => self.query.clone().with("snapshot", "true"),
            (_, Start::Since(since)) => self.query.clone().with("since", since),
        };
        let open = self.client.open(
            &Method::GET,
            query.as_str(),
            Upload::Whole(Some(Bytes::new())),
            &headers,
        );
        let response = match timeout(self.client.patience(), open).await {
            Ok(response) => response?,
            Err(_) => return Err(self.client.silent("no answer to the feed's request")),
        };
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            self.lines = Some(Lines::new(body));
            return Ok(());
        }
        let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.client.broken(&*e))?
            .to_bytes();
        let answer = Answer {
            status: head.status,
            headers: head.headers,
            body,
        };
        if head.status == StatusCode::GONE {
            return Err(stop::refused(format!(
                "{}; take the levels anew with --snapshot",
                problem::sentence(&answer)
            )));
        }
        if matches!(
            head.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            return Err(stop::unreachable(problem::sentence(&answer)));
        }
        Err(problem::error(&answer))
    }
}

fn json(data: &str) -> Result<Value> {
    serde_json::from_str(data).with_context(|| {
        format!("the feed sent what is no JSON: {data}; check that --url points at an onhand node")
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::command::block_on;

    /// Answers each connection with the next of these bodies and hangs up; gives the requests.
    async fn node(bodies: Vec<&'static str>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for body in bodies {
                let (mut socket, _) = listener.accept().await.expect("a client");
                let mut request = vec![0; 4096];
                let read = socket.read(&mut request).await.expect("a request");
                requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                socket.write_all(head.as_bytes()).await.expect("sent");
                socket.write_all(body.as_bytes()).await.expect("sent");
            }
            requests
        });
        (address, serving)
    }

    #[test]
    fn a_broken_feed_goes_on_after_its_last_position() {
        block_on(async {
            let (address, serving) = node(vec![
                ": hello\n\nid: p1\ndata: {\"delta\":{\"on_hand\":1}}\n\nid: p2\nevent: heartbeat\n\nid: p3\ndata: {\"de",
                "id: p4\ndata: {\"delta\":{\"on_hand\":2}}\n\n",
            ])
            .await;
            let client = Client::new(&format!("http://{address}"), Duration::from_secs(5))
                .expect("plain http");
            let mut feed = Feed::new(&client, Start::Since("latest".into())).only("sku", Some("A"));
            let change = |n: i64| Message::Change(serde_json::json!({"delta": {"on_hand": n}}));
            assert_eq!(feed.next().await.expect("first"), change(1));
            assert!(matches!(feed.next().await.expect("resumed"), Message::Resumed { anew: false, .. }));
            assert_eq!(feed.next().await.expect("second"), change(2));
            assert_eq!(feed.position.as_deref(), Some("p4"));
            let requests = serving.await.expect("served");
            assert!(requests[0].starts_with("GET /v1/changes?sku=A&since=latest "));
            assert!(requests[1].contains("last-event-id: p2"), "{}", requests[1]);
        })
        .expect("a runtime");
    }

    #[test]
    fn a_cut_snapshot_begins_anew() {
        block_on(async {
            let (address, serving) = node(vec![
                "event: level\ndata: {\"sku\":\"A\",\"on_hand\":1}\n\n",
                "event: level\ndata: {\"sku\":\"A\",\"on_hand\":1}\n\nevent: snapshot_end\nid: q\ndata: {}\n\n",
            ])
            .await;
            let client = Client::new(&format!("http://{address}"), Duration::from_secs(5))
                .expect("plain http");
            let mut feed = Feed::new(&client, Start::Snapshot);
            let level = || Message::Level(serde_json::json!({"sku": "A", "on_hand": 1}));
            assert_eq!(feed.next().await.expect("a level"), level());
            assert!(matches!(
                feed.next().await.expect("cut"),
                Message::Resumed { anew: true, .. }
            ));
            assert_eq!(feed.next().await.expect("again"), level());
            assert_eq!(feed.next().await.expect("its end"), Message::SnapshotEnd);
            assert_eq!(feed.position.as_deref(), Some("q"));
            let requests = serving.await.expect("served");
            assert!(
                requests
                    .iter()
                    .all(|request| request.contains("snapshot=true"))
            );
        })
        .expect("a runtime");
    }
}
