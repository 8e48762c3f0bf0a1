//! Lists over all partitions in one byte order, page by page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::engine::Engine;
use crate::peers::question::{Question, Step};
use crate::stale::Stale;
use crate::wire::problem::Problem;
use crate::wire::write::{Object, text};

/// Keys asked of each partition at a time: the owner is kept from deciding for some 100 us at most.
pub(super) const STEP: usize = 64;

/// Levels asked for at a time, all partitions together: what one instance says of all that it has fits
/// what another reads of an answer.
const STEP_LEVELS: usize = 1 << 16;

/// Levels asked of each partition at a time.
pub(super) fn step_levels(engine: &Engine) -> usize {
    STEP_LEVELS / usize::from(engine.partitions.max(1))
}

/// Keys, or levels where a key has several, that one request looks at, all partitions together: a filter
/// that matches little ends its page early, with a cursor, instead of reading everything at once.
pub(super) const LOOKED_AT_MAX: usize = 50_000;

/// One key of a list with what its owner said of it.
#[derive(Debug)]
pub(super) struct Found<T> {
    pub(super) partition: u16,
    pub(super) key: String,
    pub(super) value: T,
}

/// The keys that a question finds in byte order, a step of them, and from where to ask on; `None`: that
/// was the last.
pub(super) async fn step<T: Send + 'static>(
    engine: &Engine,
    question: impl Question<Answer = Step<T>>,
    stale: &Stale,
) -> Result<(Vec<Found<T>>, Option<String>), Problem> {
    let pages = engine.ask_all_within(question, stale).await?;
    // Beyond the last key of a page that was full, its partition may have more: others must not
    // overtake it.
    let bound = pages
        .iter()
        .filter(|page| page.more)
        .filter_map(|page| page.found.last().map(|(key, _)| key.clone()))
        .min();
    let mut found = Vec::new();
    for (partition, page) in (0..).zip(pages) {
        let within = page
            .found
            .into_iter()
            .filter(|(key, _)| bound.as_ref().is_none_or(|b| key <= b));
        found.extend(within.map(|(key, value)| Found {
            partition,
            key,
            value,
        }));
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok((found, bound))
}

/// A cursor for the parts of a key, as it goes out.
pub(super) fn cursor(parts: &[&str]) -> String {
    let mut json = Vec::new();
    crate::wire::write::list(&mut json, parts, |out, part| text(out, part));
    URL_SAFE_NO_PAD.encode(json)
}

/// The parts of a cursor that came in.
pub(super) fn read_cursor<const N: usize>(cursor: &str) -> Result<[String; N], Problem> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|json| serde_json::from_slice::<Vec<String>>(&json).ok())
        .and_then(|parts| <[String; N]>::try_from(parts).ok())
        .ok_or_else(|| {
            Problem::parameter(
                "cursor",
                "is none of this list; send next_cursor as it was received",
            )
        })
}

/// A list's body: its items, already written and separated, and where it goes on.
pub(super) fn body(items: &[u8], next: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + 64);
    let mut object = Object::open(&mut out);
    let list = object.key("items");
    list.push(b'[');
    list.extend_from_slice(items);
    list.push(b']');
    match next {
        Some(cursor) => object.text("next_cursor", cursor),
        None => object.null("next_cursor"),
    };
    object.close();
    out
}

/// Items being written, with their commas.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) json: Vec<u8>,
    pub(super) count: usize,
}

impl Items {
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.count > 0 {
            self.json.push(b',');
        }
        self.count += 1;
        write(&mut self.json);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        let sent = cursor(&["a\"b", "é"]);
        assert_eq!(read_cursor::<2>(&sent).unwrap(), ["a\"b", "é"]);
        assert!(read_cursor::<1>(&sent).is_err());
        assert!(read_cursor::<2>("nonsense").is_err());
    }

    #[test]
    fn a_list_says_where_it_goes_on() {
        let mut items = Items::default();
        items.push(|out| out.push(b'1'));
        items.push(|out| out.push(b'2'));
        assert_eq!(
            body(&items.json, Some("x")),
            br#"{"items":[1,2],"next_cursor":"x"}"#
        );
        assert_eq!(body(b"", None), br#"{"items":[],"next_cursor":null}"#);
    }
}
