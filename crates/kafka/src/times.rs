//! Times as they are stored.
//!
//! librdkafka takes the timestamp 0 for "now", so a record of 1970-01-01T00:00:00.000Z cannot be
//! sent with it. Times up to and including that one are therefore stored one millisecond earlier:
//! 0 as -1, -7 as -8. The order of times stays, every time comes back, and Kafka's own -1, "no
//! time", reads as 0. Other programs see these few times one millisecond early; times after 1970
//! are stored as they are.

use onhand_log::Timestamp;

/// The time to send. The earliest of all has no earlier one and is stored as its successor's.
pub(crate) fn stored(time: Timestamp) -> Timestamp {
    if time <= 0 {
        time.saturating_sub(1)
    } else {
        time
    }
}

/// The time that was given, from what a broker returned.
pub(crate) fn given(stored: Timestamp) -> Timestamp {
    if stored < 0 { stored + 1 } else { stored }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_comes_back_and_none_is_stored_as_now() {
        for time in [i64::MIN + 1, -8, -7, -1, 0, 1, 5, 1 << 50, i64::MAX] {
            assert_eq!(given(stored(time)), time);
            assert_ne!(stored(time), 0);
        }
        assert!([-2, -1, 0, 1, 2].map(stored).is_sorted());
        assert_eq!(given(0), 0, "another program's 0 is 0");
    }
}
