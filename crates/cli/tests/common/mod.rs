//! What the end-to-end tests share: the real binary as a child process, a small blocking HTTP
//! client that can misbehave, seeded randomness, and the data beside the project.
//!
//! Every wait is bounded and says what it waited for. Nothing here knows how the node works inside.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

pub(crate) mod feed;
pub(crate) mod http;
pub(crate) mod instances;
pub(crate) mod node;
pub(crate) mod others;
pub(crate) mod stock;
pub(crate) mod views;
pub(crate) mod watched;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Longer than anything here may take; a wait that long is a failure and not a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// True when the long counts are asked for.
pub(crate) fn soak() -> bool {
    std::env::var("ONHAND_SOAK").is_ok_and(|v| v == "1")
}

/// The short count, or the long one with `ONHAND_SOAK=1`. On Kafka, where each step takes several round
/// trips between processes, a tenth of both.
pub(crate) fn count(short: u64, long: u64) -> u64 {
    let count = if soak() { long } else { short };
    if node::kafka().is_some() {
        (count / 10).max(2)
    } else {
        count
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A file of the data beside the project; `None` (and said so) where it is not there.
pub(crate) fn data_file(name: &str) -> Option<PathBuf> {
    let data = std::env::var("ONHAND_TEST_DATA").unwrap_or_else(|_| "../shared/data".to_owned());
    let path = root().join(data).join(name);
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// Randomness that can be repeated (SplitMix64).
pub(crate) struct Rng(u64);

impl Rng {
    /// Seeded by `ONHAND_SEED`, or anew; says which.
    pub(crate) fn seeded() -> Rng {
        let seed = match std::env::var("ONHAND_SEED") {
            Ok(text) => text.parse().expect("ONHAND_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap();
                now.as_secs() ^ (u64::from(now.subsec_nanos()) << 20)
            }
        };
        println!("seed {seed}: repeat with ONHAND_SEED={seed}");
        Rng(seed)
    }

    /// Another stream of randomness, for another thread.
    pub(crate) fn fork(&mut self) -> Rng {
        Rng(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From `from` to below `end`.
    pub(crate) fn within(&mut self, from: u64, end: u64) -> u64 {
        from + self.below(end - from)
    }

    /// An index below `end`.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    /// True in that many of a hundred cases.
    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    /// A stretch of time.
    pub(crate) fn millis(&mut self, from: u64, end: u64) -> Duration {
        Duration::from_micros(self.within(from * 1_000, end * 1_000))
    }
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        // A pause between two questions, not a guess of how long the answer takes.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value at that share of sorted samples.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    assert!(!samples.is_empty(), "there are samples");
    samples.sort_unstable();
    samples[(samples.len() - 1) * percent / 100]
}
