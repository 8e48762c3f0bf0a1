//! A node on a directory of its own, and an HTTP client plain enough to misbehave with.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use onhand_server::{Config, RunError};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::table::Table;

/// No answer of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    _dir: Option<TempDir>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// A node on a fresh directory, configured by `change`.
    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self::start_on(dir.path(), change);
        node._dir = Some(dir);
        node
    }

    pub(crate) fn start_on(dir: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(dir);
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        Self::run(|stopped, ready| {
            let runtime = runtime();
            runtime.block_on(onhand_server::run(config, stopped, move |address| {
                ready.send(address).unwrap();
            }))
        })
    }

    /// One of several on that table.
    pub(crate) fn seated(table: &Arc<Table>, name: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let (table, name) = (Arc::clone(table), name.to_owned());
        let mut node = Self::run(|stopped, ready| {
            let open = move || Ok(table.seat(&name));
            let run = onhand_server::run_on(config, open, stopped, move |address| {
                ready.send(address).unwrap();
            });
            runtime().block_on(run)
        });
        node._dir = Some(dir);
        node
    }

    fn run(
        run: impl FnOnce(
            Pin<Box<dyn Future<Output = ()> + Send>>,
            mpsc::Sender<SocketAddr>,
        ) -> Result<(), RunError>
        + Send
        + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, address) = mpsc::channel();
        let stopped = Box::pin(async {
            let _ = stopped.await;
        });
        let thread = std::thread::spawn(move || run(stopped, ready));
        let address = match address.recv() {
            Ok(address) => address,
            Err(_) => panic!("the node did not start: {:?}", thread.join().unwrap()),
        };
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
            _dir: None,
        }
    }

    /// Asks it to end, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(mut self) -> Result<(), RunError> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, json: &str) -> Answer {
        self.send(
            "POST",
            path,
            &["Content-Type: application/json"],
            json.as_bytes(),
        )
    }

    pub(crate) fn command(&self, json: &str) -> Answer {
        self.post("/v1/commands", json)
    }

    /// Sends lines and reads every line of the answer.
    pub(crate) fn stream(&self, query: &str, lines: &str) -> Vec<Value> {
        let path = format!("/v1/commands{query}");
        let answer = self.send(
            "POST",
            &path,
            &["Content-Type: application/x-ndjson"],
            lines.as_bytes(),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.lines()
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        // A node that refuses a body by its head may close before all of it was written.
        let _ = stream.write_all(body);
        Answer::read(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Opens a feed and reads its head.
    pub(crate) fn feed(&self, query: &str, headers: &[&str]) -> Feed {
        let mut stream = self.connect();
        let mut head = format!("GET /v1/changes{query} HTTP/1.1\r\nHost: test\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let (status, _) = read_head(&mut reader);
        Feed {
            status,
            chunks: Chunks {
                reader,
                left: 0,
                done: false,
            },
            buffer: Vec::new(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let (status, headers) = read_head(&mut reader);
        let find = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let mut body = Vec::new();
        if find("transfer-encoding").as_deref() == Some("chunked") {
            Chunks {
                reader,
                left: 0,
                done: false,
            }
            .read_to_end(&mut body)
            .unwrap();
        } else if let Some(length) = find("content-length") {
            body.resize(length.parse().unwrap(), 0);
            reader.read_exact(&mut body).unwrap();
        } else {
            reader.read_to_end(&mut body).unwrap();
        }
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no status: {line:?}"));
    let status = status.parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if line.is_empty() {
            return (status, headers);
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A chunked body.
struct Chunks {
    reader: BufReader<TcpStream>,
    left: usize,
    done: bool,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.done {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                // The connection was closed within the body.
                self.done = true;
                return Ok(0);
            }
            self.left = usize::from_str_radix(line.trim(), 16).unwrap();
            if self.left == 0 {
                self.done = true;
                return Ok(0);
            }
        }
        let most = out.len().min(self.left);
        let read = self.reader.read(&mut out[..most])?;
        if read == 0 {
            self.done = true;
            return Ok(0);
        }
        self.left -= read;
        if self.left == 0 {
            let mut end = [0; 2];
            self.reader.read_exact(&mut end)?;
        }
        Ok(read)
    }
}

/// An open feed.
pub(crate) struct Feed {
    pub(crate) status: u16,
    chunks: Chunks,
    buffer: Vec<u8>,
}

/// A server-sent event, or a line of NDJSON under `data`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl Feed {
    /// The next line, without its line feed; `None` when the feed has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let mut piece = [0; 16 << 10];
            let read = self.chunks.read(&mut piece).unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&piece[..read]);
        }
    }

    /// The next event with data.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                if event.data != Value::Null {
                    return Some(event);
                }
                event = Event::default();
            } else if let Some(data) = line.strip_prefix("data: ") {
                event.data = serde_json::from_str(data).unwrap();
            } else if let Some(id) = line.strip_prefix("id: ") {
                event.id = Some(id.to_owned());
            } else if let Some(name) = line.strip_prefix("event: ") {
                event.name = name.to_owned();
            }
        }
    }

    /// The next change, heartbeats passed over.
    pub(crate) fn change(&mut self) -> Option<Event> {
        loop {
            let event = self.event()?;
            if event.name.is_empty() {
                return Some(event);
            }
            assert_eq!(event.name, "heartbeat", "{event:?}");
        }
    }
}
