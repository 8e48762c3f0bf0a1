//! Why a command could not be taken in: the field and what to send instead.

use std::borrow::Cow;

/// A command refused before it reached the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    /// As a JSON pointer without its leading slash; empty when it is about the whole.
    pub(crate) field: Cow<'static, str>,
    /// A sentence that ends with what to do.
    pub(crate) detail: String,
    /// The command's name, as far as it could be read, so that the sender finds it again.
    pub(crate) id: Option<String>,
    pub(crate) source: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RefusalKind {
    /// It is no JSON object.
    Unreadable,
    /// A rule is broken.
    Invalid,
    /// It names something that this version does not have yet.
    NotAvailable,
    /// It is longer than a command may be.
    TooLong,
}

impl Refusal {
    pub(crate) fn new(
        kind: RefusalKind,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            detail: detail.into(),
            id: None,
            source: None,
        }
    }

    pub(crate) fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Invalid, field, detail)
    }
}

/// The one of `known` that is meant by `word`, if one is near enough to be worth proposing.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Below this Jaro-Winkler likeness proposals confuse more than they help.
    const LIKENESS_MIN: f64 = 0.75;
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_word_is_proposed_and_nonsense_is_not() {
        let known = ["quantity", "location", "occurred_at"];
        assert_eq!(nearest("quantty", known), Some("quantity"));
        assert_eq!(nearest("Quantity", known), Some("quantity"));
        assert_eq!(nearest("occured_at", known), Some("occurred_at"));
        assert_eq!(nearest("zzz", known), None);
    }
}
