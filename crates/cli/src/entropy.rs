//! Names for commands, and repeatable chance for workloads.

use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// A new id: 32 hex digits, the first 12 of which are the time in milliseconds, so that ids made
/// later sort later; the other 80 bits are random.
///
/// The randomness is the standard library's per-process hash key, drawn anew for each call: good
/// against collisions, which is all an id needs; it is no secret.
pub(crate) fn new_id() -> String {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = elapsed.as_millis() & 0xffff_ffff_ffff;
    let random = (u128::from(chance()) << 64 | u128::from(chance())) & ((1 << 80) - 1);
    format!("{:032x}", (millis << 80) | random)
}

/// 64 bits that differ on every call and in every process.
fn chance() -> u64 {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    hasher.write_u128(elapsed.as_nanos());
    hasher.finish()
}

/// A seeded generator (SplitMix64): the same seed gives the same day on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`; the slight bias of the remainder does not matter here.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "a range must not be empty");
        low + self.next() % (high - low + 1)
    }

    /// An index below `len`.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a usize fits u64 on every supported target");
        usize::try_from(self.next() % len.max(1)).expect("it is below a usize")
    }

    /// One of the slice's entries.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len());
        of.get(at)
            .expect("callers pick from lists that are not empty")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_sort_by_time() {
        let mut ids: Vec<String> = (0..1_000).map(|_| new_id()).collect();
        assert!(
            ids.iter()
                .all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        );
        let first = ids.first().cloned().expect("made above");
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(new_id() > first);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let mut a = Seeded::new(7);
        let mut b = Seeded::new(7);
        let drawn: Vec<u64> = (0..100).map(|_| a.between(3, 9)).collect();
        assert!(drawn.iter().all(|n| (3..=9).contains(n)));
        assert_eq!(drawn, (0..100).map(|_| b.between(3, 9)).collect::<Vec<_>>());
    }
}
