//! A blocking HTTP/1.1 client with raw control: it can stop reading, cut a connection anywhere and
//! send what no client should.

use std::borrow::BorrowMut;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// One connection.
pub(crate) struct Http {
    reader: BufReader<TcpStream>,
}

/// Status line and headers.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "status {}, no JSON ({error}): {}",
                self.status(),
                self.text()
            )
        })
    }

    /// The body's lines, each as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.body
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).unwrap_or_else(|error| {
                    panic!("no JSON ({error}): {}", String::from_utf8_lossy(line))
                })
            })
            .collect()
    }
}

impl Http {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Http> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Http {
            reader: BufReader::with_capacity(64 << 10, stream),
        })
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// A second handle on the same connection, to write while another thread reads.
    pub(crate) fn writer(&self) -> TcpStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    /// Sends a whole request.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: node\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.stream().write_all(&bytes)
    }

    /// Sends the head of a request whose body follows in [`chunk`]s.
    pub(crate) fn begin(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        let mut request = format!("POST {path} HTTP/1.1\r\nhost: node\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("transfer-encoding: chunked\r\n\r\n");
        self.stream().write_all(request.as_bytes())
    }

    /// The head of the answer; its body is read through [`Http::body`].
    pub(crate) fn head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.one_head()?;
            // 100 Continue and its like announce the real one.
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    fn one_head(&mut self) -> io::Result<Head> {
        let status_line = self.line()?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| broken(format!("no status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, headers });
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| broken(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended",
            ));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|error| broken(error.to_string()))
    }

    /// The body that follows that head, read as it comes.
    pub(crate) fn body(&mut self, head: &Head) -> Body<&mut Http> {
        Body {
            http: self,
            left: Left::of(head),
        }
    }

    /// The same, for a connection that serves nothing else.
    pub(crate) fn into_body(self, head: &Head) -> Body<Http> {
        Body {
            http: self,
            left: Left::of(head),
        }
    }

    /// The whole answer.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head()?;
        let mut body = Vec::new();
        self.body(&head).read_to_end(&mut body)?;
        Ok(Answer { head, body })
    }

    /// A request and its whole answer.
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.send(method, path, headers, body)?;
        self.answer()
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.call("GET", path, &[], b"")
    }

    /// `POST` of JSON.
    pub(crate) fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        self.call("POST", path, JSON, body.to_string().as_bytes())
    }

    /// `POST /v1/commands` of whole NDJSON.
    pub(crate) fn bulk(&mut self, query: &str, lines: &str) -> io::Result<Answer> {
        self.call(
            "POST",
            &format!("/v1/commands{query}"),
            NDJSON,
            lines.as_bytes(),
        )
    }
}

pub(crate) const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
pub(crate) const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

/// One chunk of a body begun with [`Http::begin`].
pub(crate) fn chunk(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut framed = Vec::with_capacity(bytes.len() + 16);
    write!(framed, "{:x}\r\n", bytes.len())?;
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    stream.write_all(&framed)
}

/// Ends a body begun with [`Http::begin`].
pub(crate) fn last_chunk(stream: &mut impl Write) -> io::Result<()> {
    stream.write_all(b"0\r\n\r\n")
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

enum Left {
    Bytes(u64),
    Chunked { of_chunk: u64, first: bool },
    ToTheEnd,
    Nothing,
}

impl Left {
    fn of(head: &Head) -> Left {
        if head
            .header("transfer-encoding")
            .is_some_and(|v| v.contains("chunked"))
        {
            Left::Chunked {
                of_chunk: 0,
                first: true,
            }
        } else if let Some(length) = head.header("content-length") {
            Left::Bytes(length.parse().unwrap())
        } else if head.status == 204 || head.status == 304 {
            Left::Bytes(0)
        } else {
            Left::ToTheEnd
        }
    }
}

/// A body, read as it comes. An answer cut before its end is an error, never a short body.
pub(crate) struct Body<H> {
    http: H,
    left: Left,
}

impl<H: BorrowMut<Http>> Body<H> {
    /// The connection below, to cut it or to bound its waits.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.http.borrow_mut().stream()
    }
}

impl<H: BorrowMut<Http>> Read for Body<H> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let http = self.http.borrow_mut();
        loop {
            match &mut self.left {
                Left::Nothing | Left::Bytes(0) => return Ok(0),
                Left::ToTheEnd => {
                    let read = http.reader.read(into)?;
                    if read == 0 {
                        self.left = Left::Nothing;
                    }
                    return Ok(read);
                }
                Left::Bytes(left)
                | Left::Chunked {
                    of_chunk: left @ 1..,
                    ..
                } => {
                    let most = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let read = http.reader.read(&mut into[..most])?;
                    if read == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the answer was cut",
                        ));
                    }
                    *left -= u64::try_from(read).unwrap();
                    return Ok(read);
                }
                Left::Chunked { first, .. } => {
                    if !std::mem::take(first) {
                        http.line()?;
                    }
                    let size = http.line()?;
                    let size = size.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16)
                        .map_err(|_| broken(format!("no chunk size: {size:?}")))?;
                    if size == 0 {
                        while !http.line()?.is_empty() {}
                        self.left = Left::Nothing;
                    } else {
                        self.left = Left::Chunked {
                            of_chunk: size,
                            first: false,
                        };
                    }
                }
            }
        }
    }
}
