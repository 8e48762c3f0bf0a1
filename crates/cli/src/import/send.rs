//! Sending converted lines so that none is lost and none counts twice.
//!
//! The lines go out in requests of bounded size on one connection, in order. A request is done
//! when its totals have come; until then its lines stay in memory and are sent again after a
//! broken connection, which is harmless: the node knows each line by its `seq`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::quarantine::Quarantine;
use super::sink::Piece;
use crate::client::Client;
use crate::client::bulk::{BulkAnswer, Pieces};
use crate::client::problem;
use crate::output::thousands;
use crate::stop;

/// One request: what is sent again at most, and held in memory meanwhile. Large enough that the
/// pause at its end (a round trip and a sync) does not count: about 150,000 lines.
const REQUEST_BYTES: usize = 32 << 20;
/// The first pause before sending again; doubled up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What became of the lines.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The node's totals, of all requests together.
    pub(crate) totals: BTreeMap<String, u64>,
    /// Lines that the node did not take; each is in the quarantine file.
    pub(crate) problems: u64,
    /// Lines sent more than once.
    pub(crate) again: u64,
    /// The last line whose outcome is known.
    pub(crate) known_through: u64,
}

/// Sends one input's pieces.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) client: &'a Client,
    pub(crate) quarantine: &'a Quarantine,
    pub(crate) progress: &'a ProgressBar,
    /// How long to go on trying without any progress.
    pub(crate) retry_for: Duration,
}

/// How one request ended.
enum Ended {
    /// Its totals came.
    Complete {
        totals: BTreeMap<String, u64>,
        problems: Vec<Bytes>,
    },
    /// The node is busy; it says when to come back.
    Busy(Duration, String),
}

impl Sender<'_> {
    /// Sends all pieces to the last.
    ///
    /// # Errors
    /// Unreachable, when the node could not be reached for as long as `retry_for`; refused, when
    /// it does not take the upload at all.
    pub(crate) async fn send_all(&self, receiver: &mut mpsc::Receiver<Piece>) -> Result<Sent> {
        let mut sent = Sent::default();
        let mut waiting: Vec<Piece> = Vec::new();
        let mut ended = false;
        let mut pause = PAUSE_FIRST;
        let mut give_up = Instant::now() + self.retry_for;
        loop {
            if waiting.is_empty() {
                match receiver.recv().await {
                    Some(piece) => waiting.push(piece),
                    None => return Ok(sent),
                }
            }
            let (why, wait) = match self.request(&mut waiting, receiver, &mut ended).await {
                Ok(Ended::Complete { totals, problems }) => {
                    for (name, count) in totals {
                        *sent.totals.entry(name).or_default() += count;
                    }
                    for outcome in &problems {
                        self.keep(outcome, &waiting)?;
                    }
                    sent.problems += u64::try_from(problems.len()).unwrap_or(u64::MAX);
                    sent.known_through = waiting.last().map_or(0, |piece| piece.last_line);
                    waiting.clear();
                    pause = PAUSE_FIRST;
                    give_up = Instant::now() + self.retry_for;
                    continue;
                }
                Ok(Ended::Busy(wait, why)) => (why, wait),
                Err(error) if stop::is_unreachable(&error) => (error.to_string(), pause),
                Err(error) => return Err(error),
            };
            let reached = format!(
                "lines up to {} are in; {} lines after it are sent again",
                thousands(sent.known_through),
                thousands(lines(&waiting)),
            );
            if Instant::now() + wait >= give_up {
                return Err(stop::unreachable(format!(
                    "{why}; {reached} when the same import is run again; tried for {} s \
                     (--retry-for)",
                    self.retry_for.as_secs()
                )));
            }
            self.progress
                .suspend(|| eprintln!("{why}; {reached} in {} ms", wait.as_millis()));
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
            sent.again += lines(&waiting);
        }
    }

    /// One request: what waits goes first, then new pieces up to [`REQUEST_BYTES`]. Every piece
    /// sent is in `waiting` when this returns, however it ends.
    async fn request(
        &self,
        waiting: &mut Vec<Piece>,
        receiver: &mut mpsc::Receiver<Piece>,
        ended: &mut bool,
    ) -> Result<Ended> {
        let (pieces, answer) = self.client.upload("/v1/commands?results=problems");
        let patience = self.client.patience();
        let mut feeding = pin!(feed(waiting, receiver, ended, pieces, patience));
        let mut reading = pin!(self.read(answer));
        let fed = tokio::select! {
            // What was cut off stays in the receiver or in `waiting`: both waits are cancel safe.
            read = &mut reading => return match read {
                // Totals before the end of the input cannot be of all of it.
                Ok(Ended::Complete { .. }) => Err(stop::unreachable(
                    "the node ended its answer before the upload had ended",
                )),
                other => other,
            },
            fed = &mut feeding => fed,
        };
        let rest = timeout(patience, &mut reading).await;
        match (rest, fed) {
            (Ok(Ok(Ended::Complete { .. })), Err(error)) => Err(error),
            (Ok(read), _) => read,
            (Err(_), _) => Err(stop::unreachable(format!(
                "the node did not say within {} s what became of the last lines",
                patience.as_secs()
            ))),
        }
    }

    async fn read(&self, answer: impl Future<Output = Result<BulkAnswer>>) -> Result<Ended> {
        let mut lines = match answer.await? {
            BulkAnswer::Lines(lines) => lines,
            BulkAnswer::Refused(answer) => {
                let said = problem::sentence(&answer);
                let busy = [
                    StatusCode::TOO_MANY_REQUESTS,
                    StatusCode::SERVICE_UNAVAILABLE,
                ];
                if !busy.contains(&answer.status) {
                    return Err(stop::refused(said));
                }
                let after = answer
                    .headers
                    .get(RETRY_AFTER)
                    .and_then(|v| v.to_str().ok());
                let seconds = after.and_then(|text| text.parse().ok()).unwrap_or(1);
                let wait = Duration::from_secs(seconds).clamp(PAUSE_FIRST, PAUSE_MAX);
                return Ok(Ended::Busy(wait, said));
            }
        };
        let mut problems = Vec::new();
        while let Some(line) = lines.next(self.client).await? {
            if !line.starts_with(b"{\"totals\"") {
                problems.push(line);
                continue;
            }
            let last: Value = serde_json::from_slice(&line).unwrap_or_default();
            let totals = last.get("totals").and_then(Value::as_object).cloned();
            let count = |(name, value): (String, Value)| Some((name, value.as_u64()?));
            let totals = totals
                .unwrap_or_default()
                .into_iter()
                .filter_map(count)
                .collect();
            return Ok(Ended::Complete { totals, problems });
        }
        Err(stop::unreachable(
            "the node's answer ended without its totals, so it is incomplete",
        ))
    }

    /// Keeps a line aside that the node did not take, as it was sent, with what the node said.
    fn keep(&self, outcome: &Bytes, waiting: &[Piece]) -> Result<()> {
        let outcome: Value = serde_json::from_slice(outcome)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(outcome).into_owned()));
        let text = |name: &str| {
            outcome
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let why = ["detail", "title", "reason"]
            .map(text)
            .into_iter()
            .find(|t| !t.is_empty());
        let reason = match why {
            Some(why) => format!("{}: {why}", text("status")),
            None => outcome.to_string(),
        };
        let place = outcome
            .get("line")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let sent = line_at(waiting, place).unwrap_or_default();
        let line = text("id").parse().unwrap_or(place);
        self.quarantine.keep(reason.as_bytes(), line, [sent])
    }
}

/// Feeds one request. Each piece is noted in `waiting` before it goes out.
async fn feed(
    waiting: &mut Vec<Piece>,
    receiver: &mut mpsc::Receiver<Piece>,
    ended: &mut bool,
    pieces: Pieces,
    patience: Duration,
) -> Result<()> {
    let broken = || stop::unreachable("the connection broke while lines were sent");
    let send = async |bytes: Bytes| match timeout(patience, pieces.send(bytes)).await {
        Ok(sent) => sent.map_err(|_| broken()),
        Err(_) => Err(stop::unreachable(format!(
            "the node took no more lines for {} s",
            patience.as_secs()
        ))),
    };
    let mut bytes = 0;
    for piece in waiting.iter() {
        bytes += piece.bytes.len();
        send(piece.bytes.clone()).await?;
    }
    while bytes < REQUEST_BYTES && !*ended {
        let piece = tokio::select! {
            piece = receiver.recv() => piece,
            () = pieces.closed() => return Err(broken()),
        };
        let Some(piece) = piece else {
            *ended = true;
            break;
        };
        bytes += piece.bytes.len();
        let copy = piece.bytes.clone();
        waiting.push(piece);
        send(copy).await?;
    }
    Ok(())
}

fn lines(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.lines).sum()
}

/// The line of that number, from 1, within the request.
fn line_at(pieces: &[Piece], mut number: u64) -> Option<&[u8]> {
    for piece in pieces {
        if number > piece.lines {
            number -= piece.lines;
            continue;
        }
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        return piece.bytes.split(|&b| b == b'\n').nth(place);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::command::block_on;

    /// Reads a chunked request to its end and gives its lines.
    async fn request_lines(socket: &mut TcpStream) -> Vec<String> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while !all.ends_with(b"0\r\n\r\n") {
            let read = socket.read(&mut buffer).await.expect("a request");
            assert!(read > 0, "the upload ended too early");
            all.extend_from_slice(&buffer[..read]);
        }
        let text = String::from_utf8(all).expect("text");
        assert!(
            text.starts_with("POST /v1/commands?results=problems HTTP/1.1"),
            "{text}"
        );
        text.lines()
            .filter(|line| line.starts_with('{'))
            .map(str::to_owned)
            .collect()
    }

    async fn answer(socket: &mut TcpStream, head: &str, body: &str) {
        let text = format!(
            "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(text.as_bytes()).await.expect("answered");
    }

    fn piece(from: u64, to: u64) -> Piece {
        let text: String = (from..=to)
            .map(|n| format!("{{\"id\":\"{n}\"}}\n"))
            .collect();
        Piece {
            bytes: Bytes::from(text),
            lines: to - from + 1,
            last_line: to,
        }
    }

    async fn send(address: SocketAddr, retry_ms: u64) -> (Result<Sent>, String) {
        let client =
            Client::new(&format!("http://{address}"), Duration::from_secs(5)).expect("plain http");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("q.csv");
        let quarantine = Quarantine::new(path.clone());
        let (sender, mut receiver) = mpsc::channel(8);
        sender.send(piece(1, 3)).await.expect("room");
        sender.send(piece(4, 5)).await.expect("room");
        drop(sender);
        let progress = ProgressBar::hidden();
        let sending = Sender {
            client: &client,
            quarantine: &quarantine,
            progress: &progress,
            retry_for: Duration::from_millis(retry_ms),
        };
        let sent = sending.send_all(&mut receiver).await;
        quarantine.finish().expect("written");
        (sent, std::fs::read_to_string(path).unwrap_or_default())
    }

    #[test]
    fn an_answer_without_totals_is_sent_again_whole() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let serving = tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.expect("a client");
                let first = request_lines(&mut socket).await;
                answer(&mut socket, "200 OK", "").await;
                let (mut socket, _) = listener.accept().await.expect("again");
                answer(
                    &mut socket,
                    "503 Busy\r\nretry-after: 0",
                    "{\"title\":\"busy\"}",
                )
                .await;
                drop(socket);
                let (mut socket, _) = listener.accept().await.expect("a third time");
                let second = request_lines(&mut socket).await;
                let problem =
                    "{\"line\":4,\"id\":\"4\",\"status\":\"invalid\",\"detail\":\"no sku\"}";
                let totals = "{\"totals\":{\"applied\":1,\"duplicate\":3,\"invalid\":1}}";
                answer(&mut socket, "200 OK", &format!("{problem}\n{totals}\n")).await;
                (first, second)
            });
            let (sent, quarantined) = send(address, 5_000).await;
            let sent = sent.expect("sent in the end");
            let (first, second) = serving.await.expect("served");
            assert_eq!(first.len(), 5);
            assert_eq!(first, second);
            assert_eq!(sent.totals.get("duplicate"), Some(&3));
            assert_eq!((sent.problems, sent.known_through), (1, 5));
            assert!(sent.again >= 5, "{}", sent.again);
            assert!(quarantined.contains("invalid: no sku,4,\"{\"\"id\"\":\"\"4\"\"}\""));
        })
        .expect("a runtime");
    }

    #[test]
    fn a_refusal_ends_it_and_silence_ends_it_in_bounded_time() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let serving = tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.expect("a client");
                request_lines(&mut socket).await;
                answer(&mut socket, "415 No", "{\"detail\":\"not that\"}").await;
            });
            let (sent, _) = send(address, 5_000).await;
            let error = sent.expect_err("refused");
            assert!(!stop::is_unreachable(&error) && error.to_string().contains("not that"));
            serving.await.expect("served");
            let (sent, _) = send(address, 300).await;
            let error = sent.expect_err("nobody is there");
            assert!(stop::is_unreachable(&error), "{error}");
            assert!(
                error.to_string().contains("lines up to 0 are in"),
                "{error}"
            );
        })
        .expect("a runtime");
    }
}
