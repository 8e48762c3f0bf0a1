//! Problems: what went wrong, as `application/problem+json` (RFC 9457).
//!
//! `type` is a stable name, `detail` ends with what to do, `retryable` says whether the very same
//! request may succeed later. Where the problem is an outcome, its members stand there too; its word
//! is under `outcome`, since `status` is HTTP's number here.

use super::outcome::{self, Detail, First, Said};
use super::refusal::{Refusal, RefusalKind};
use super::write::Object;
use onhand_ledger::{Outcome, Reason};

/// The media type of every problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// A kind of problem. Its name is stable; its title is for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) status: u16,
    pub(crate) retryable: bool,
}

macro_rules! kinds {
    ($($constant:ident = $name:literal, $status:literal, $retryable:literal, $title:literal;)*) => {
        impl Kind {
            $(pub(crate) const $constant: Self =
                Self { name: $name, title: $title, status: $status, retryable: $retryable };)*

            /// All of them, to compare with the API's description.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$constant,)*];
        }
    };
}

kinds! {
    UNREADABLE = "unreadable", 400, false, "The request cannot be read";
    INVALID = "invalid", 422, false, "A field or parameter breaks a rule";
    ID_REUSED = "id_reused", 422, false, "The id was used for another command";
    NOT_AVAILABLE = "not_available", 422, false, "This version does not have it";
    REJECTED = "rejected", 409, false, "The request was refused by the rules";
    PARKED = "parked", 202, false, "The command was kept aside";
    NOT_FOUND = "not_found", 404, false, "There is nothing of that name";
    NO_ROUTE = "no_route", 404, false, "There is no such address";
    METHOD = "method", 405, false, "The address does not take this method";
    GONE = "unrecoverable_position", 410, false, "The position is not held any more";
    TOO_OLD = "too_old", 410, false, "That far back nothing is held";
    TOO_LARGE = "too_large", 413, false, "The request is too large";
    MEDIA = "media_type", 415, false, "The content type or encoding is not taken";
    TOO_MANY = "too_many", 429, true, "A bound on concurrent use is reached";
    BUSY = "busy", 503, true, "The node is at its bound";
    NO_SPACE = "no_space", 503, true, "The node has no space for new work";
    STOPPED = "stopped", 503, true, "The node takes no work";
    NO_OWNER = "no_owner", 503, true, "The owner of the key cannot be reached";
    MOVED = "moved", 421, true, "Another instance owns the key";
    UNKNOWN_END = "unknown_end", 503, true, "It is not known whether it took effect";
    DAMAGED = "internal", 500, false, "The node could not do it";
}

impl Kind {
    pub(crate) fn uri(self) -> String {
        format!("urn:onhand:problem:{}", self.name)
    }
}

/// A problem with its sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
    /// The field or parameter, where it is about one.
    pub(crate) field: Option<String>,
    /// The partition that is not open here: its owner may be asked in place of this instance.
    pub(crate) moved: Option<u16>,
    /// More members, as JSON without the braces: `"earliest":"..."`.
    pub(crate) more: String,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            moved: None,
            more: String::new(),
        }
    }

    /// A parameter that breaks a rule.
    pub(crate) fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self {
            field: Some(name.to_owned()),
            ..Self::new(Kind::INVALID, format!("{name} {why}"))
        }
    }

    /// With one more member, a string.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        let mut text = Vec::new();
        super::write::text(&mut text, value);
        let text = String::from_utf8(text).expect("escaping keeps UTF-8");
        let comma = if self.more.is_empty() { "" } else { "," };
        self.more = format!("{}{comma}\"{key}\":{text}", self.more);
        self
    }

    /// With one more member, a list of strings.
    pub(crate) fn with_list(mut self, key: &str, values: &[String]) -> Self {
        let mut list = Vec::new();
        super::write::list(&mut list, values, |out, value| {
            super::write::text(out, value);
        });
        let list = String::from_utf8(list).expect("escaping keeps UTF-8");
        let comma = if self.more.is_empty() { "" } else { "," };
        self.more = format!("{}{comma}\"{key}\":{list}", self.more);
        self
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut object = Object::open(&mut out);
        head(&mut object, self.kind, &self.detail);
        object.some_text("field", self.field.as_deref());
        object.close();
        if !self.more.is_empty() {
            out.pop();
            out.push(b',');
            out.extend_from_slice(self.more.as_bytes());
            out.push(b'}');
        }
        out
    }
}

/// Whether a body that came from another instance is a problem of that kind.
pub(crate) fn is_of(body: &[u8], kind: Kind) -> bool {
    let read: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let uri = read
        .as_ref()
        .and_then(|problem| problem.get("type")?.as_str());
    uri == Some(kind.uri().as_str())
}

fn head(object: &mut Object<'_>, kind: Kind, detail: &str) {
    object
        .text("type", &kind.uri())
        .text("title", kind.title)
        .uint("status", u64::from(kind.status))
        .text("detail", detail)
        .flag("retryable", kind.retryable);
}

/// The kind of a refused command.
pub(crate) fn kind_of_refusal(kind: RefusalKind) -> Kind {
    match kind {
        RefusalKind::Unreadable => Kind::UNREADABLE,
        RefusalKind::Invalid => Kind::INVALID,
        RefusalKind::NotAvailable => Kind::NOT_AVAILABLE,
        RefusalKind::TooLong => Kind::TOO_LARGE,
    }
}

/// The sentence of a refusal: its field, then what is wrong and what to do.
pub(crate) fn sentence(refusal: &Refusal) -> String {
    if refusal.field.is_empty() {
        format!("the command {}", refusal.detail)
    } else {
        format!("{} {}", refusal.field, refusal.detail)
    }
}

/// The body for a command that did not reach the log.
pub(crate) fn of_refusal(refusal: &Refusal) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut object = Object::open(&mut out);
    head(
        &mut object,
        kind_of_refusal(refusal.kind),
        &sentence(refusal),
    );
    object
        .some_text("id", refusal.id.as_deref())
        .some_text("source", refusal.source.as_deref())
        .text("outcome", "invalid")
        .text("field", &refusal.field)
        .text("reason", outcome::refusal_reason(refusal.kind));
    object.close();
    out
}

/// The kind and the sentence of an outcome that is a problem.
pub(crate) fn of_judged(judged: &Outcome<'_>) -> (Kind, String) {
    match judged {
        // Decided once: the very same request gets the same answer, whatever has changed meanwhile.
        Outcome::Rejected(rejection) => (Kind::REJECTED, rejection_sentence(rejection.reason)),
        Outcome::Invalid(invalid) if invalid.reason == Reason::IdReused => (
            Kind::ID_REUSED,
            outcome::what_to_do(invalid.reason).to_owned(),
        ),
        Outcome::Invalid(invalid) => (
            Kind::INVALID,
            format!("{}: {}", invalid.field, outcome::what_to_do(invalid.reason)),
        ),
        _ => (
            Kind::PARKED,
            "it could not be processed; look into dead-letters".to_owned(),
        ),
    }
}

/// The body for an outcome that is a problem. `first` is what a duplicate repeats; the problem is the
/// first's.
pub(crate) fn of_outcome(said: &Said<'_, '_>, first: Option<&First>) -> Vec<u8> {
    let (kind, detail) = match first {
        Some(first) => (first.kind, first.detail.clone()),
        None => of_judged(said.outcome()),
    };
    let mut out = Vec::with_capacity(512);
    let mut object = Object::open(&mut out);
    object
        .text("type", &kind.uri())
        .text("title", kind.title)
        .uint("status", u64::from(kind.status))
        .flag("retryable", kind.retryable);
    // An invalid or parked outcome has a sentence of its own under `detail`: one is enough.
    if !matches!(said.outcome(), Outcome::Invalid(_) | Outcome::Parked { .. }) {
        object.text("detail", &detail);
    }
    outcome::members(&mut object, said, first, Detail::Whole, "outcome");
    object.close();
    out
}

fn rejection_sentence(reason: Reason) -> String {
    format!(
        "{}: {}",
        outcome::reason(reason),
        outcome::what_to_do(reason)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_kind_status_and_more() {
        let problem = Problem::parameter("limit", "is 0; send 1 to 1000").with("near", "a\"b");
        let json: serde_json::Value = serde_json::from_slice(&problem.body()).unwrap();
        assert_eq!(json["type"], "urn:onhand:problem:invalid");
        assert_eq!(json["status"], 422);
        assert_eq!(json["field"], "limit");
        assert_eq!(json["near"], "a\"b");
        assert_eq!(json["retryable"], false);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            let twice = Kind::ALL
                .iter()
                .skip(i + 1)
                .any(|other| other.name == kind.name);
            assert!(!twice, "{}", kind.name);
        }
    }
}
