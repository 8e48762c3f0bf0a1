//! A reader of the change feed, in both of its forms, that can stop reading or hang up anywhere.

use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::http::{Body, Head, Http};
use super::stock::encode;

/// How the feed is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Sse,
    Ndjson,
}

/// One thing that the feed says.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The position to resume after it; levels of a snapshot have none.
    pub(crate) position: Option<String>,
    /// SSE's `event:`, or what an NDJSON line says it is.
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn is_change(&self) -> bool {
        self.data.get("delta").is_some()
    }

    pub(crate) fn is_snapshot_end(&self) -> bool {
        self.is("snapshot_end")
    }

    /// A level of the snapshot: SSE's data, or wrapped in a line of NDJSON.
    pub(crate) fn level(&self) -> Option<&Value> {
        match self.is("level") && !self.is_change() {
            true => Some(self.data.get("level").unwrap_or(&self.data)),
            false => None,
        }
    }

    /// The closing word of a feed that the node ended itself.
    pub(crate) fn is_closed(&self) -> bool {
        self.is("closed")
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.data.get(name).is_some()
    }

    fn parse(form: Form, text: &str) -> Option<Event> {
        match form {
            Form::Ndjson => {
                let data: Value = serde_json::from_str(text)
                    .unwrap_or_else(|error| panic!("no JSON in the feed ({error}): {text}"));
                let name = data["type"]
                    .as_str()
                    .or_else(|| data["event"].as_str())
                    .unwrap_or_default()
                    .to_owned();
                Some(Event {
                    position: data["position"].as_str().map(str::to_owned),
                    name,
                    data,
                })
            }
            Form::Sse => {
                let (mut position, mut name, mut data) = (None, String::new(), String::new());
                for line in text.lines() {
                    let (field, value) = line.split_once(':').unwrap_or((line, ""));
                    let value = value.strip_prefix(' ').unwrap_or(value);
                    match field {
                        "id" => position = Some(value.to_owned()),
                        "event" => value.clone_into(&mut name),
                        "data" => data.push_str(value),
                        _ => {}
                    }
                }
                if data.is_empty() && position.is_none() && name.is_empty() {
                    return None;
                }
                let data = match data.as_str() {
                    "" => Value::Null,
                    text => serde_json::from_str(text)
                        .unwrap_or_else(|error| panic!("no JSON in the feed ({error}): {text}")),
                };
                Some(Event {
                    position,
                    name,
                    data,
                })
            }
        }
    }
}

/// Where a feed begins.
#[derive(Debug, Clone)]
pub(crate) enum Since {
    Earliest,
    Latest,
    Position(String),
    Snapshot,
}

/// A request for the feed that has been answered with 200.
pub(crate) struct Connection {
    reader: BufReader<Body<Http>>,
    form: Form,
}

/// Asks for the feed. SSE resumes by `Last-Event-ID`, NDJSON by `since`.
pub(crate) fn open(
    address: SocketAddr,
    form: Form,
    since: &Since,
    filter: &str,
) -> io::Result<Connection> {
    let (http, head) = ask(address, form, since, filter)?;
    assert_eq!(head.status, 200, "the feed answers: {head:?}");
    Ok(Connection {
        reader: BufReader::new(http.into_body(&head)),
        form,
    })
}

/// Asks for the feed, whatever the answer.
pub(crate) fn ask(
    address: SocketAddr,
    form: Form,
    since: &Since,
    filter: &str,
) -> io::Result<(Http, Head)> {
    let mut http = Http::connect(address)?;
    let accept = match form {
        Form::Sse => "text/event-stream",
        Form::Ndjson => "application/x-ndjson",
    };
    let mut headers = vec![("accept", accept)];
    let query = match since {
        Since::Earliest => "since=earliest".to_owned(),
        Since::Latest => "since=latest".to_owned(),
        Since::Snapshot => "snapshot=true".to_owned(),
        Since::Position(position) if form == Form::Sse => {
            headers.push(("last-event-id", position));
            // The header beats it.
            "since=latest".to_owned()
        }
        Since::Position(position) => format!("since={}", encode(position)),
    };
    http.send(
        "GET",
        &format!("/v1/changes?{query}{filter}"),
        &headers,
        b"",
    )?;
    let head = http.head()?;
    Ok((http, head))
}

impl Connection {
    /// The feed that was answered with that head.
    pub(crate) fn of(http: Http, head: &Head, form: Form) -> Connection {
        Connection {
            reader: BufReader::new(http.into_body(head)),
            form,
        }
    }

    /// Reads events until `each` says that it is enough (`false`) or the node ends the feed.
    /// `Ok(true)`: enough; `Ok(false)`: the node ended it.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Event) -> bool) -> io::Result<bool> {
        let form = self.form;
        let mut event = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            let ends = match form {
                // A cut line has no end and is not an event.
                Form::Ndjson => line.ends_with('\n'),
                Form::Sse => line.trim_end_matches(['\r', '\n']).is_empty(),
            };
            event.push_str(&line);
            if !ends {
                continue;
            }
            let text = std::mem::take(&mut event);
            if text.trim().is_empty() {
                continue;
            }
            if let Some(event) = Event::parse(form, &text)
                && !each(event)
            {
                return Ok(true);
            }
        }
    }

    /// The connection below, to bound its waits.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut().stream()
    }
}
