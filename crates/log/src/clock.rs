//! The time that records bear: the wall clock, made so that it neither steps nor stops.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Timestamp;

/// A difference to the wall clock above this is a step that somebody should know of.
const STEP_MS: i64 = 60_000;
/// How fast the clock is led back to the wall clock: 5 ms a second, ten times what NTP slews, and
/// far too little for a reservation's expiry to notice.
const SLEW_PER_MILLE: i64 = 5;

/// Wall time at its start, advanced by the boot clock, slewed towards the wall clock.
#[derive(Debug)]
pub struct Clock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the clock shows at `boot_ms` of the boot clock.
    shown_ms: i64,
    boot_ms: i64,
    /// Boot milliseconds not yet worth a millisecond of slew.
    slew_credit: i64,
    step_ms: i64,
}

impl Clock {
    /// Starts at the wall time or at `not_before`, whichever is later.
    pub fn new(not_before: Timestamp) -> Self {
        let shown_ms = wall_ms().max(not_before);
        let state = State {
            shown_ms,
            boot_ms: boot_ms(),
            slew_credit: 0,
            step_ms: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// The time now; never less than what was shown before.
    pub fn now(&self) -> Timestamp {
        let mut state = self.state.lock().expect("no holder of the clock panics");
        state.advance(boot_ms(), wall_ms());
        state.shown_ms
    }

    /// How far the wall clock is ahead of what is shown, when that is above a minute; else 0.
    pub fn step_ms(&self) -> i64 {
        self.state
            .lock()
            .expect("no holder of the clock panics")
            .step_ms
    }
}

impl State {
    fn advance(&mut self, boot_ms: i64, wall_ms: i64) {
        let elapsed = (boot_ms - self.boot_ms).max(0);
        self.boot_ms = self.boot_ms.max(boot_ms);
        self.shown_ms += elapsed;
        let ahead = wall_ms - self.shown_ms;
        self.step_ms = if ahead.abs() > STEP_MS { ahead } else { 0 };
        self.slew_credit += elapsed * SLEW_PER_MILLE;
        let allowed = self.slew_credit / 1_000;
        self.slew_credit %= 1_000;
        // Never by more than what just elapsed, so that the clock goes slower but not back.
        self.shown_ms += ahead.clamp(-allowed, allowed);
    }
}

fn wall_ms() -> i64 {
    // Before 1970 or beyond the year 292 million the machine's clock is broken; 0 lets the boot
    // clock carry on, and the step is reported.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(0)
}

/// Milliseconds of a clock that no one can set and that goes on while the machine sleeps.
#[cfg(target_os = "linux")]
fn boot_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// Elsewhere the monotonic clock stands in; sleep is then made up by the slew.
#[cfg(not(target_os = "linux"))]
fn boot_ms() -> i64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(std::time::Instant::now).elapsed();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(shown_ms: i64) -> State {
        State {
            shown_ms,
            boot_ms: 0,
            slew_credit: 0,
            step_ms: 0,
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_is_noticed_and_slewed() {
        let mut clock = at(1_000_000);
        clock.advance(1_000, 1_000_000 + 3_600_000);
        assert_eq!(clock.shown_ms, 1_001_005);
        assert_eq!(clock.step_ms, 3_599_000);
        for second in 2..=100 {
            clock.advance(second * 1_000, 1_000_000 + 3_600_000);
        }
        assert_eq!(clock.shown_ms, 1_000_000 + 100 * 1_005);
    }

    #[test]
    fn a_wall_clock_set_back_never_turns_time_around() {
        let mut clock = at(10_000_000);
        let mut shown = clock.shown_ms;
        for tick in 1..=10_000 {
            clock.advance(tick * 7, 5);
            assert!(clock.shown_ms >= shown, "went back at {tick}");
            shown = clock.shown_ms;
        }
        assert_eq!(shown, 10_000_000 + 70_000 - 350);
        assert!(clock.step_ms < -STEP_MS);
    }

    #[test]
    fn a_small_difference_is_no_step_and_ends() {
        let mut clock = at(0);
        for second in 1..=400 {
            clock.advance(second * 1_000, second * 1_000 + 1_000);
        }
        assert_eq!((clock.shown_ms, clock.step_ms), (401_000, 0));
    }

    #[test]
    fn the_clock_starts_no_earlier_than_asked() {
        let future = wall_ms() + 500_000;
        assert!(Clock::new(future).now() >= future);
        assert!(Clock::new(0).now() >= wall_ms() - 1_000);
    }
}
