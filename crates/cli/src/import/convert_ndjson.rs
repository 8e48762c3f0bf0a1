//! NDJSON to commands: lines go out as they came, named by their place in the file.
//!
//! A line that names its own `source` is sent untouched: it is known by its own name. Any other
//! gets the file as its source, and its line as `id` and (where it concerns one SKU) as `seq`,
//! each unless the line has its own.

use std::borrow::Cow;
use std::io::{BufRead, Read as _};

use anyhow::Result;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::sink::Sink;
use super::tally::Kind;
use crate::json_line::{push_number, push_string};
use crate::stop;

/// The longest line sent: a command with every field at its limit stays far below it.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What naming and counting a line needs of it.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    quantity: Option<&'a RawValue>,
    #[serde(default)]
    source: Option<IgnoredAny>,
    #[serde(default)]
    id: Option<IgnoredAny>,
    #[serde(default)]
    seq: Option<IgnoredAny>,
    #[serde(default)]
    sku: Option<IgnoredAny>,
}

/// Reads the input to its end and puts its commands into the sink.
///
/// # Errors
/// Usage, where the input cannot be read on; otherwise what the sink says.
pub(crate) fn convert(
    mut input: Box<dyn BufRead + Send>,
    path: &str,
    source: &str,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let wrong = |error: std::io::Error| {
        stop::usage(format!(
            "{path} cannot be read on: {error}; correct the file and import it again: what has \
             been sent stays, and is not applied twice"
        ))
    };
    let mut buffer = Vec::new();
    let mut line = 0;
    loop {
        buffer.clear();
        let read = (&mut input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut buffer)
            .map_err(wrong)?;
        if read == 0 {
            return Ok(());
        }
        line += 1;
        if !buffer.ends_with(b"\n") && buffer.len() as u64 == LINE_BYTES_MAX {
            skip_line(&mut input).map_err(wrong)?;
            let reason = format!("a line above {LINE_BYTES_MAX} bytes; only its beginning is kept");
            sink.quarantine(reason.as_bytes(), line, [buffer.as_slice()])?;
            continue;
        }
        let text = buffer.trim_ascii();
        let text = if line == 1 {
            text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
        } else {
            text
        };
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Head<'_>>(text) {
            Ok(head) if text.starts_with(b"{") => write(&head, text, line, source, sink)?,
            Ok(_) => sink.quarantine(b"the line is no JSON object", line, [text])?,
            Err(error) => {
                let reason = format!("the line is no command in JSON: {error}");
                sink.quarantine(reason.as_bytes(), line, [text])?;
            }
        }
    }
}

fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffered = input.fill_buf()?;
        let end = buffered.iter().position(|&b| b == b'\n');
        let length = end.map_or(buffered.len(), |at| at + 1);
        input.consume(length);
        if end.is_some() || length == 0 {
            return Ok(());
        }
    }
}

fn write(head: &Head<'_>, text: &[u8], line: u64, source: &str, sink: &mut Sink<'_>) -> Result<()> {
    let out = &mut sink.out;
    out.push(b'{');
    if head.source.is_none() {
        out.extend_from_slice(b"\"source\":");
        push_string(out, source.as_bytes());
        if head.id.is_none() {
            out.extend_from_slice(b",\"id\":\"");
            push_number(out, line);
            out.push(b'"');
        }
        if head.seq.is_none() && head.sku.is_some() {
            out.extend_from_slice(b",\"seq\":");
            push_number(out, line);
        }
        let empty = text
            .get(1..)
            .unwrap_or_default()
            .trim_ascii_start()
            .starts_with(b"}");
        if !empty {
            out.push(b',');
        }
    }
    // A line has no raw line ends inside: JSON escapes them in strings.
    out.extend_from_slice(text.get(1..).unwrap_or_default());
    out.push(b'\n');
    let quantity = head
        .quantity
        .and_then(|raw| Decimal::parse(raw.get().trim_matches('"').as_bytes()))
        .unwrap_or_default();
    let kind = Kind::of(head.kind.as_deref().unwrap_or_default(), quantity);
    sink.command(line, kind, quantity)
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressBar;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::import::quarantine::Quarantine;

    fn run(text: Vec<u8>) -> (Vec<Value>, u64, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("q.csv");
        let quarantine = Quarantine::new(path.clone());
        let (sender, mut receiver) = mpsc::channel(64);
        let mut sink = Sink::new(sender, &quarantine, ProgressBar::hidden());
        let input = Box::new(std::io::Cursor::new(text));
        convert(input, "test.ndjson", "file/test", &mut sink).expect("read to its end");
        sink.flush().expect("room for all");
        let quarantined = sink.tally.quarantined;
        drop(sink);
        quarantine.finish().expect("written");
        let mut commands = Vec::new();
        while let Ok(piece) = receiver.try_recv() {
            for line in piece
                .bytes
                .split(|&b| b == b'\n')
                .filter(|line| !line.is_empty())
            {
                commands.push(serde_json::from_slice(line).expect("each line is JSON"));
            }
        }
        (
            commands,
            quarantined,
            std::fs::read_to_string(&path).unwrap_or_default(),
        )
    }

    #[test]
    fn a_line_is_named_by_its_place_unless_it_names_itself() {
        let text = "\u{feff}{\"type\":\"ship\",\"sku\":\"A\",\"quantity\":1}\n\
            \n\
            {\"type\":\"ship\",\"source\":\"till\",\"id\":\"9\",\"sku\":\"A\",\"quantity\":2}\r\n\
            { \"type\":\"commit\", \"reservation\":\"r\" }\n\
            {\"id\":\"x\",\"seq\":3,\"sku\":\"A\"}\n\
            {}";
        let (commands, quarantined, _) = run(text.as_bytes().to_vec());
        let expected = [
            json!({"source":"file/test","id":"1","seq":1,"type":"ship","sku":"A","quantity":1}),
            json!({"type":"ship","source":"till","id":"9","sku":"A","quantity":2}),
            json!({"source":"file/test","id":"4","type":"commit","reservation":"r"}),
            json!({"source":"file/test","id":"x","seq":3,"sku":"A"}),
            json!({"source":"file/test","id":"6"}),
        ];
        assert_eq!(commands, expected);
        assert_eq!(quarantined, 0);
    }

    #[test]
    fn what_is_no_command_is_kept_aside_and_the_rest_goes_on() {
        let mut text = b"nonsense\n[1]\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 << 20));
        text.extend_from_slice(b"\n{\"type\":\"count\",\"sku\":\"A\",\"quantity\":\"1.5\"}");
        let (commands, quarantined, file) = run(text);
        assert_eq!(commands.len(), 1);
        assert_eq!(commands[0]["seq"], json!(4));
        assert_eq!(quarantined, 3);
        assert!(file.contains(",1,nonsense"), "the first line is kept");
        assert!(
            file.contains("only its beginning is kept,3,xxx"),
            "the long one too"
        );
    }
}
