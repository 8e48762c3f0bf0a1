//! Durations as people write them: `90s`, `72h`, `7d`, `1h 30m`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// A length of time. Above 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Milliseconds(i64);

impl Milliseconds {
    pub(crate) fn get(self) -> i64 {
        self.0
    }
}

impl From<Milliseconds> for Duration {
    fn from(ms: Milliseconds) -> Self {
        Self::from_millis(ms.0.unsigned_abs())
    }
}

/// Reads a duration between the bounds, both in milliseconds. A day has 24 hours.
///
/// # Errors
/// Says what to write.
pub(crate) fn parse(text: &str, least: i64, most: i64) -> Result<Milliseconds, String> {
    let ms = text
        .parse::<Span>()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .ok()
        .and_then(|duration| i64::try_from(duration.as_millis()).ok());
    match ms {
        None => Err(format!(
            "{text:?} is no duration; write a number with its unit: 90s, 30m, 72h, 7d"
        )),
        Some(ms) if ms < least => Err(format!("{text:?} is below {}", shown(least))),
        Some(ms) if ms > most => Err(format!("{text:?} is above {}", shown(most))),
        Some(ms) => Ok(Milliseconds(ms)),
    }
}

fn shown(ms: i64) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")];
    let whole = units.iter().find(|(unit, _)| ms % unit == 0);
    whole.map_or_else(
        || format!("{ms}ms"),
        |(unit, name)| format!("{}{name}", ms / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = |text: &str| parse(text, SECOND, 366 * DAY).map(Milliseconds::get);
        assert_eq!(read("90s"), Ok(90 * SECOND));
        assert_eq!(read("1h 30m"), Ok(90 * MINUTE));
        assert_eq!(read("7d"), Ok(7 * DAY));
        for (text, said) in [
            ("7", "no duration"),
            ("-3h", "below 1s"),
            ("999ms", "below 1s"),
            ("367d", "above 366d"),
            ("99999999999999d", "no duration"),
            ("", "no duration"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
