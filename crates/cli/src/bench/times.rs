//! Measured times and their percentiles.

use std::time::Duration;

/// Times of one sample, kept whole: at most a few million, 8 bytes each.
#[derive(Debug)]
pub(crate) struct Times(Vec<u64>);

impl Times {
    /// From nanoseconds in any order.
    pub(crate) fn new(mut nanoseconds: Vec<u64>) -> Times {
        nanoseconds.sort_unstable();
        Times(nanoseconds)
    }

    /// The time in microseconds that this many of 1,000 did not exceed: the nearest rank, so a
    /// time that was measured.
    pub(crate) fn per_mille(&self, share: usize) -> f64 {
        let rank = (self.0.len() * share).div_ceil(1_000);
        let time = self
            .0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default();
        Duration::from_nanos(time).as_secs_f64() * 1e6
    }

    pub(crate) fn median(&self) -> f64 {
        self.per_mille(500)
    }
}

/// Whole nanoseconds.
pub(crate) fn nanoseconds(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let near = |time: f64, expected: f64| (time - expected).abs() < 1e-6;
        let times = Times::new((1..=1_000).rev().map(|n| n * 1_000).collect());
        assert!(near(times.median(), 500.0));
        assert!(near(times.per_mille(990), 990.0));
        assert!(near(times.per_mille(999), 999.0));
        assert!(near(times.per_mille(1_000), 1_000.0));
        assert!(near(Times::new(vec![7_000]).median(), 7.0));
        assert!(near(Times::new(Vec::new()).median(), 0.0));
    }
}
