//! What disagrees: drift and oversell, as lists show them.

use onhand_ledger::Conflict;

use super::outcome::figure;
use super::write::Object;

/// The kinds that a list may ask for.
pub(crate) const KINDS: &[&str] = &["drift", "oversell", "commit_after_release"];

/// The word for its kind.
pub(crate) fn kind(conflict: &Conflict) -> &'static str {
    match conflict {
        Conflict::Drift { .. } => "drift",
        Conflict::Oversell { .. } => "oversell",
        Conflict::CommitAfterRelease { .. } => "commit_after_release",
    }
}

/// What it is about, by which lists are ordered.
pub(crate) fn key(conflict: &Conflict) -> &str {
    match conflict {
        Conflict::Drift { sku, .. } | Conflict::Oversell { sku, .. } => sku.as_str(),
        Conflict::CommitAfterRelease { reservation, .. } => reservation.as_str(),
    }
}

pub(crate) fn write(out: &mut Vec<u8>, conflict: &Conflict) {
    let mut object = Object::open(out);
    object.text("kind", kind(conflict));
    match conflict {
        Conflict::Drift {
            sku,
            location,
            decimals,
            figure: counted_figure,
            counted_at,
            counted,
            expected,
            source,
            id,
        } => {
            let drift = counted.0.saturating_sub(expected.0);
            object
                .text("sku", sku.as_str())
                .text("location", location.as_str())
                .text("state", figure(*counted_figure))
                .time("counted_at", *counted_at)
                .amount("counted", counted.0, *decimals)
                .amount("expected", expected.0, *decimals)
                .amount("drift", drift, *decimals)
                .text("source", source.as_str())
                .text("id", id.as_str());
        }
        Conflict::Oversell {
            sku,
            location,
            decimals,
            available,
            on_hand,
            since,
        } => {
            object
                .text("sku", sku.as_str())
                .text("location", location.as_str())
                .amount("available", available.0, *decimals)
                .amount("on_hand", on_hand.0, *decimals)
                .time("since", *since);
        }
        Conflict::CommitAfterRelease {
            reservation,
            source,
            id,
            at,
        } => {
            object
                .text("reservation", reservation.as_str())
                .text("source", source.as_str())
                .text("id", id.as_str())
                .time("at", *at);
        }
    }
    object.close();
}
