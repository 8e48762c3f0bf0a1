//! HTTP/1.1 with as little work as can be: requests as bytes, answers by their length.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

/// The longest answer's head; a node's has a few hundred bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Appends a whole request.
pub(crate) fn request(out: &mut Vec<u8>, method: &str, path: &str, host: &str, body: &[u8]) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host.as_bytes());
    if method == "POST" {
        out.extend_from_slice(b"\r\ncontent-type: application/json\r\ncontent-length: ");
        crate::json_line::push_number(out, u64::try_from(body.len()).unwrap_or(u64::MAX));
    }
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// What an answer's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Where the body begins.
    pub(crate) body_from: usize,
    /// Where the answer ends.
    pub(crate) end: usize,
}

/// Reads the head, once it is whole.
///
/// # Errors
/// When this is no answer with a length.
pub(crate) fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        if bytes.len() > HEAD_BYTES_MAX {
            return wrong("the answer has no end of its head");
        }
        return Ok(None);
    };
    let text = bytes
        .get(..at)
        .and_then(|head| std::str::from_utf8(head).ok())
        .unwrap_or_default();
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|s| s.parse().ok());
    let mut length = None;
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some(Head {
            status,
            body_from: at + 4,
            end: at + 4 + length,
        })),
        (None, _) => wrong("the answer is no HTTP/1.1"),
        (_, None) => wrong("the answer has no content-length"),
    }
}

/// One blocking connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) fn open(host: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: vec![0; 64 << 10],
            filled: 0,
        })
    }

    /// Sends a request and waits for its answer: the status and the body.
    pub(crate) fn call(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request)?;
        self.filled = 0;
        loop {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = self.stream.read(room)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
            let bytes = self.buffer.get(..self.filled).unwrap_or_default();
            if let Some(head) = head(bytes)?
                && self.filled >= head.end
            {
                let body = self
                    .buffer
                    .get(head.body_from..head.end)
                    .unwrap_or_default();
                return Ok((head.status, body));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_length() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..answer.len() {
            let read = head(&answer[..cut]).expect("well formed");
            assert_eq!(read.is_some(), cut >= answer.len() - 3, "cut at {cut}");
        }
        let whole = head(answer).expect("well formed").expect("whole");
        assert_eq!(whole.status, 409);
        assert_eq!(&answer[whole.body_from..whole.end], b"abc");
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(head(b"nonsense\r\n\r\n").is_err());
        assert!(head(&[b'x'; 20_000]).is_err());
    }

    #[test]
    fn a_request_says_its_length() {
        let mut out = Vec::new();
        request(&mut out, "POST", "/v1/commands", "h:1", b"{}");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "POST /v1/commands HTTP/1.1\r\nhost: h:1\r\ncontent-type: application/json\r\n\
             content-length: 2\r\n\r\n{}"
        );
    }
}
