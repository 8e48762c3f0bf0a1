//! Lines out of a body that arrives piece by piece, compressed or not, in bounded memory.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::{Buf as _, Bytes};
use hyper::body::{Body as _, Incoming};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, ReadBuf};

/// Bytes of lines taken in at a time, at most: large enough to share a sync among thousands, small
/// enough that other requests get their turn.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Lines taken in at a time, at most: what is refused takes more bytes in the answer than in the
/// question.
const CHUNK_LINES: u64 = 4_096;

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
}

/// Where a line stands in the buffer, or that it was longer than a line may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    At(Range<usize>),
    TooLong,
}

/// Cuts bytes into lines. It never holds more than one chunk and one longest line.
#[derive(Debug)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    line_max: usize,
    /// Within a line that is too long: what comes is dropped up to its end.
    dropping: bool,
}

impl Lines {
    pub(crate) fn new(line_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            line_max,
            dropping: false,
        }
    }

    /// Room for more bytes.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The whole lines in the buffer, with the end of the last; `end` when nothing more comes, so that
    /// what is left is a line too. An empty line is passed over, but counts: see the numbers.
    pub(crate) fn cut(&mut self, end: bool) -> (Vec<(u64, Line)>, u64, usize) {
        let mut lines = Vec::new();
        let mut number = 0;
        let mut at = 0;
        while let Some(rest) = self.buffer.get(at..).filter(|rest| !rest.is_empty())
            && number < CHUNK_LINES
        {
            let newline = rest.iter().position(|b| *b == b'\n');
            let length = match newline {
                Some(length) => length,
                None if end => rest.len(),
                None => break,
            };
            let line = rest.get(..length).unwrap_or_default();
            if self.dropping {
                self.dropping = false;
                lines.push((number, Line::TooLong));
            } else if length > self.line_max {
                lines.push((number, Line::TooLong));
            } else {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if !line.iter().all(u8::is_ascii_whitespace) {
                    lines.push((number, Line::At(at..at + line.len())));
                }
            }
            number += 1;
            at += length + usize::from(newline.is_some());
        }
        if end && self.dropping && at == self.buffer.len() {
            // The body ended within the line.
            self.dropping = false;
            lines.push((number, Line::TooLong));
            number += 1;
        }
        (lines, number, at)
    }

    /// Forgets the bytes up to `at`, which [`Lines::cut`] gave, and drops a line that is too long as
    /// it grows.
    pub(crate) fn forget(&mut self, at: usize) {
        self.buffer.drain(..at.min(self.buffer.len()));
        let open = !self.buffer.contains(&b'\n');
        if open && (self.dropping || self.buffer.len() > self.line_max) {
            self.dropping = true;
            self.buffer.clear();
        }
    }
}

/// A body, decoded.
pub(crate) enum Source {
    Plain(Incoming),
    Decoded(Pin<Box<dyn AsyncRead + Send>>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Decoded(_) => "Decoded",
        })
    }
}

impl Source {
    pub(crate) fn new(body: Incoming, encoding: Encoding) -> Self {
        let reader = Pieces {
            body,
            piece: Bytes::new(),
        };
        match encoding {
            Encoding::Plain => Self::Plain(reader.body),
            Encoding::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Self::Decoded(Box::pin(decoder))
            }
            Encoding::Zstd => {
                let mut decoder = ZstdDecoder::new(reader);
                decoder.multiple_members(true);
                Self::Decoded(Box::pin(decoder))
            }
        }
    }

    /// Adds what arrives next, and what is there already, to `buffer` up to about [`CHUNK_BYTES`].
    /// Says whether more may come.
    ///
    /// Cancellation: what was read so far stands in `buffer`.
    pub(crate) async fn fill(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Plain(body) => {
                let mut waits = true;
                while buffer.len() < CHUNK_BYTES {
                    let next = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
                        Poll::Pending if waits => Poll::Pending,
                        Poll::Pending => Poll::Ready(None),
                        Poll::Ready(frame) => Poll::Ready(Some(frame)),
                    })
                    .await;
                    match next {
                        None => return Ok(true),
                        Some(None) => return Ok(false),
                        Some(Some(frame)) => {
                            let frame = frame.map_err(io::Error::other)?;
                            if let Some(data) = frame.data_ref() {
                                buffer.extend_from_slice(data);
                                waits = false;
                            }
                        }
                    }
                    // The connection's task hands over one piece at a time: it gets its turn, so that
                    // pieces which have arrived already share one chunk.
                    tokio::task::yield_now().await;
                }
                Ok(true)
            }
            Self::Decoded(reader) => {
                buffer.reserve(CHUNK_BYTES);
                let read = reader.read_buf(buffer).await?;
                Ok(read > 0)
            }
        }
    }
}

/// A body as a reader, for the decoders.
struct Pieces {
    body: Incoming,
    piece: Bytes,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let available = match self.as_mut().poll_fill_buf(cx)? {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(available) => available,
        };
        let taken = available.len().min(out.remaining());
        out.put_slice(available.get(..taken).unwrap_or_default());
        self.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Pieces {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.piece.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        this.piece = data;
                    }
                }
            }
        }
        Poll::Ready(Ok(&this.piece))
    }

    fn consume(self: Pin<&mut Self>, taken: usize) {
        self.get_mut().piece.advance(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of that size and gives the lines with their numbers.
    fn cut(text: &[u8], piece: usize, line_max: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(line_max);
        let mut found = Vec::new();
        let mut first = 0;
        let mut pieces = text.chunks(piece).peekable();
        while let Some(piece) = pieces.next() {
            lines.buffer().extend_from_slice(piece);
            assert!(lines.bytes().len() <= line_max + piece.len() + 1);
            loop {
                let (cut, numbers, at) = lines.cut(pieces.peek().is_none());
                for (number, line) in cut {
                    let text = match line {
                        Line::At(range) => Some(lines.bytes()[range].to_vec()),
                        Line::TooLong => None,
                    };
                    found.push((first + number, text.map(|t| String::from_utf8(t).unwrap())));
                }
                first += numbers;
                lines.forget(at);
                if numbers == 0 {
                    break;
                }
            }
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_the_body_is_cut() {
        let long = "x".repeat(40);
        let text = format!("a\n\nbb\r\n{long}\nc\n{long}{long}\n  \nlast");
        let expected: Vec<(u64, Option<String>)> = vec![
            (0, Some("a".to_owned())),
            (2, Some("bb".to_owned())),
            (3, None),
            (4, Some("c".to_owned())),
            (5, None),
            (7, Some("last".to_owned())),
        ];
        for piece in 1..text.len() + 1 {
            assert_eq!(
                cut(text.as_bytes(), piece, 8),
                expected,
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_body_may_end_within_a_line_that_is_too_long() {
        for piece in [1, 7, 100] {
            assert_eq!(
                cut(&[b'x'; 50], piece, 8),
                vec![(0, None)],
                "pieces of {piece}"
            );
        }
    }
}
