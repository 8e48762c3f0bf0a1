//! Reads that may be a little old: what a caller allows, and how old what it gets may be.
//!
//! A standby says how long ago it was last known to lack nothing that anybody had been told
//! ([`onhand_streams::Standbys`]). Whatever else an answer waited for makes it older. What an owner says
//! is not stale while the others hear it. Where they do not, another may own it already, and it is what a
//! standby would be that was level when they last did.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Response;
use hyper::header::HeaderName;

use crate::http::request::Query;
use crate::http::respond::{self, Body};
use crate::wire::problem::Problem;

/// The parameter by which a caller allows it.
const PARAMETER: &str = "max_stale_ms";

/// The header that says how old an answer may be.
const HEADER: HeaderName = HeaderName::from_static("onhand-stale-ms");

/// The most that may be allowed: an hour. Who can do with more can do without this.
const MOST_MS: u64 = 3_600_000;

/// What one request allows and has used of it.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    most: Option<Duration>,
    /// The time as of which the oldest part of the answer is known to lack nothing.
    oldest: Mutex<Option<Instant>>,
}

impl Stale {
    pub(crate) fn read(query: &mut Query) -> Result<Self, Problem> {
        let most = query.one(PARAMETER)?.map(|text| {
            let ms = text.parse().ok().filter(|ms| *ms <= MOST_MS);
            ms.map(Duration::from_millis).ok_or_else(|| {
                Problem::parameter(
                    PARAMETER,
                    format!("is {text:?}; send milliseconds, 0 to {MOST_MS}"),
                )
            })
        });
        Ok(Self::of(most.transpose()?))
    }

    pub(crate) fn of(most: Option<Duration>) -> Self {
        Self {
            most,
            oldest: Mutex::default(),
        }
    }

    /// Refuses it of a read that says itself what time it is about.
    pub(crate) fn refuse(&self) -> Result<(), Problem> {
        match self.most {
            None => Ok(()),
            Some(_) => Err(Problem::parameter(
                PARAMETER,
                "comes together with as_of or known_at, which say what they are about; leave it out",
            )),
        }
    }

    /// How old an answer may be; `None`: only an owner may give it.
    pub(crate) fn most(&self) -> Option<Duration> {
        self.most.filter(|most| !most.is_zero())
    }

    /// A part of the answer is known to lack nothing as of that time.
    pub(crate) fn note(&self, as_of: Instant) {
        let mut oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        *oldest = Some(oldest.map_or(as_of, |oldest| oldest.min(as_of)));
    }

    /// As of when the oldest part of it lacks nothing; `None` where owners gave all of it.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a part of it is not its owner's.
    pub(crate) fn is_used(&self) -> bool {
        self.oldest().is_some()
    }

    /// Says in the answer how old it may be, to a caller who allows it.
    pub(crate) fn say(&self, response: Response<Body>) -> Response<Body> {
        if self.most.is_none() {
            return response;
        }
        let age = self
            .oldest()
            .map_or(Duration::ZERO, |oldest| oldest.elapsed());
        respond::with_header(response, HEADER, &ms(age).to_string())
    }
}

/// So long before that time.
pub(crate) fn before(time: Instant, age: Duration) -> Instant {
    // Where the clock does not go back so far, no age could be stated either.
    time.checked_sub(age).unwrap_or(time)
}

/// In whole milliseconds, never less than it is.
pub(crate) fn ms(age: Duration) -> u64 {
    u64::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stale: &Stale) -> Option<u64> {
        let response = stale.say(respond::json(200, "{}"));
        let value = response.headers().get(HEADER)?;
        Some(value.to_str().unwrap().parse().unwrap())
    }

    #[test]
    fn the_oldest_part_counts_and_goes_on_ageing() {
        let stale = Stale::of(Some(Duration::from_secs(1)));
        assert_eq!(said(&stale), Some(0), "an owner's");
        let asked = Instant::now();
        std::thread::sleep(Duration::from_millis(10));
        // The time between the answer and its note counts.
        stale.note(before(asked, Duration::from_millis(300)));
        stale.note(before(asked, Duration::from_millis(20)));
        let first = said(&stale).unwrap();
        assert!(first >= 310, "{first}");
        std::thread::sleep(Duration::from_millis(10));
        assert!(said(&stale).unwrap() >= first + 10);
        assert_eq!(said(&Stale::default()), None, "nobody asked");
    }

    #[test]
    fn what_is_allowed_is_within_bounds() {
        let read = |query: &str| Stale::read(&mut Query::parse(Some(query)).unwrap());
        assert_eq!(read("").unwrap().most(), None);
        assert_eq!(read("max_stale_ms=0").unwrap().most(), None);
        let allowed = read("max_stale_ms=2000").unwrap();
        assert_eq!(allowed.most(), Some(Duration::from_secs(2)));
        assert!(allowed.refuse().is_err());
        for bad in ["", "-1", "1.5", "x", "3600001"] {
            assert!(read(&format!("max_stale_ms={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn milliseconds_are_never_less_than_it_is() {
        assert_eq!(ms(Duration::ZERO), 0);
        assert_eq!(ms(Duration::from_micros(1)), 1);
        assert_eq!(ms(Duration::from_micros(2_001)), 3);
    }
}
