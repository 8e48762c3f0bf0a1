//! What no rule can read. The edge refuses it with better words; nothing here trusts that it did.

use crate::command::{LinePart, RequestLine};
use crate::decision::{Invalid, Reason};
use crate::reservation::Wish;

/// Lines per command: what is asked of one SKU goes into one record, and one decision speaks of at most
/// 256 locations.
pub(crate) const LINES_MAX: usize = 100;
/// Longest time to live: 30 days, in seconds.
pub(crate) const TTL_MAX_S: u32 = 30 * 24 * 3_600;
/// Time to live where none is given, in seconds.
pub(crate) const TTL_DEFAULT_S: u32 = 900;

/// Says what is wrong with a command, if anything is.
pub(crate) fn check(wish: &Wish<'_>) -> Result<(), Invalid<'static>> {
    match wish {
        Wish::Commit { lines, .. } => {
            request_lines(lines)?;
            let unplaced = lines.iter().position(|line| line.location.is_none());
            unplaced.map_or(Ok(()), |i| {
                wrong(format!("lines/{i}/location"), Reason::OutOfRange)
            })
        }
        Wish::Reserve { lines, ttl_s, .. } => {
            request_lines(lines)?;
            for (i, line) in lines.iter().enumerate() {
                let same = |other: &&RequestLine<'_>| {
                    let apart = match (&other.location, &line.location) {
                        (Some(a), Some(b)) => a != b,
                        _ => false,
                    };
                    other.sku == line.sku && !apart
                };
                if lines.iter().take(i).any(|other| same(&other)) {
                    return wrong(format!("lines/{i}/sku"), Reason::RepeatedLine);
                }
            }
            ttl(*ttl_s)
        }
        Wish::Confirm { lines } | Wish::Release { lines } => {
            lines.as_ref().map_or(Ok(()), |lines| parts(lines))
        }
        Wish::Extend { ttl_s } => ttl(*ttl_s),
    }
}

fn request_lines(lines: &[RequestLine<'_>]) -> Result<(), Invalid<'static>> {
    if lines.is_empty() || lines.len() > LINES_MAX {
        return wrong("lines".to_owned(), Reason::OutOfRange);
    }
    for (i, line) in lines.iter().enumerate() {
        if line.quantity.mantissa <= 0 {
            return wrong(format!("lines/{i}/quantity"), Reason::OutOfRange);
        }
        if lines.iter().take(i).any(|other| other.line == line.line) {
            return wrong(format!("lines/{i}/line"), Reason::RepeatedLine);
        }
    }
    Ok(())
}

fn parts(parts: &[LinePart]) -> Result<(), Invalid<'static>> {
    if parts.is_empty() || parts.len() > LINES_MAX {
        return wrong("lines".to_owned(), Reason::OutOfRange);
    }
    for (i, part) in parts.iter().enumerate() {
        if part.quantity.is_some_and(|quantity| quantity.mantissa <= 0) {
            return wrong(format!("lines/{i}/quantity"), Reason::OutOfRange);
        }
        if parts.iter().take(i).any(|other| other.line == part.line) {
            return wrong(format!("lines/{i}/line"), Reason::RepeatedLine);
        }
    }
    Ok(())
}

fn ttl(ttl_s: Option<u32>) -> Result<(), Invalid<'static>> {
    match ttl_s {
        Some(0) => wrong("ttl_s".to_owned(), Reason::OutOfRange),
        Some(s) if s > TTL_MAX_S => wrong("ttl_s".to_owned(), Reason::OutOfRange),
        _ => Ok(()),
    }
}

fn wrong(field: String, reason: Reason) -> Result<(), Invalid<'static>> {
    Err(Invalid {
        field: field.into(),
        reason,
        first: 0,
    })
}
