//! The two forms of a feed, server-sent events and NDJSON, and what both leave out.

use crate::wire::write::{Object, text};

/// How a feed is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Sse,
    Ndjson,
}

/// SKUs that one feed may name: more than that is a feed of everything.
pub(crate) const SKUS_MAX: usize = 100;

/// What a reader wants to see. Empty: everything.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    pub(crate) skus: Vec<String>,
    pub(crate) location: Option<String>,
}

impl Filter {
    pub(crate) fn takes(&self, sku: &str, location: &str) -> bool {
        (self.skus.is_empty() || self.skus.iter().any(|one| one == sku))
            && self.location.as_deref().is_none_or(|one| one == location)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.skus.is_empty() && self.location.is_none()
    }
}

impl Form {
    /// A change. `token` is its position, where it has one that can be resumed from.
    pub(crate) fn change(self, out: &mut Vec<u8>, token: Option<&[u8]>, json: &[u8]) {
        match self {
            Self::Ndjson => {
                out.extend_from_slice(json);
                out.push(b'\n');
            }
            Self::Sse => {
                if let Some(token) = token {
                    out.extend_from_slice(b"id: ");
                    out.extend_from_slice(token);
                    out.push(b'\n');
                }
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(json);
                out.extend_from_slice(b"\n\n");
            }
        }
    }

    /// A level of a snapshot: nothing can be resumed from within it, so it has no id.
    pub(crate) fn level(self, out: &mut Vec<u8>, json: &[u8]) {
        match self {
            Self::Ndjson => {
                out.extend_from_slice(b"{\"event\":\"level\",\"level\":");
                out.extend_from_slice(json);
                out.extend_from_slice(b"}\n");
            }
            Self::Sse => {
                out.extend_from_slice(b"event: level\ndata: ");
                out.extend_from_slice(json);
                out.extend_from_slice(b"\n\n");
            }
        }
    }

    /// What is no change: `heartbeat`, `snapshot_end`, `closed`. `token` is where to resume from; within
    /// a snapshot there is no such place, and what a client remembers from before stays as it is.
    pub(crate) fn event(
        self,
        out: &mut Vec<u8>,
        name: &str,
        token: Option<&str>,
        reason: Option<&str>,
    ) {
        if self == Self::Sse {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            if let Some(token) = token {
                out.extend_from_slice(b"\nid: ");
                out.extend_from_slice(token.as_bytes());
            }
            out.extend_from_slice(b"\ndata: ");
        }
        let mut object = Object::open(out);
        if self == Self::Ndjson {
            text(object.key("event"), name);
        }
        object
            .some_text("position", token)
            .some_text("reason", reason);
        object.close();
        out.extend_from_slice(if self == Self::Sse { b"\n\n" } else { b"\n" });
    }

    /// The first bytes of a feed.
    pub(crate) fn hello(self, out: &mut Vec<u8>) {
        if self == Self::Sse {
            // A client that lost its connection comes again after a second.
            out.extend_from_slice(b"retry: 1000\n\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form) -> String {
        let mut out = Vec::new();
        form.change(&mut out, Some(b"t"), b"{}");
        form.change(&mut out, None, b"{}");
        form.level(&mut out, b"{}");
        form.event(&mut out, "closed", Some("u"), Some("slow"));
        form.event(&mut out, "closed", None, Some("slow"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn events_end_with_an_empty_line_and_changes_bear_their_position() {
        assert_eq!(
            written(Form::Sse),
            "id: t\ndata: {}\n\ndata: {}\n\nevent: level\ndata: {}\n\n\
             event: closed\nid: u\ndata: {\"position\":\"u\",\"reason\":\"slow\"}\n\n\
             event: closed\ndata: {\"reason\":\"slow\"}\n\n"
        );
    }

    #[test]
    fn every_line_of_ndjson_is_an_object() {
        let text = written(Form::Ndjson);
        for line in text.lines() {
            assert!(
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap()
                    .is_object(),
                "{line}"
            );
        }
        assert_eq!(text.lines().count(), 5);
    }
}
