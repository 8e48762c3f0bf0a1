//! Hash tables whose keys are fingerprints: hashes already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Takes the lower half of a fingerprint as its hash.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (i % 8));
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = u64::try_from(key & u128::from(u64::MAX)).expect("64 bits are kept");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// By fingerprint.
pub(crate) type Table<V> = HashMap<u128, V, BuildHasherDefault<Plain>>;

/// By running number.
pub(crate) type Numbered<V> = HashMap<u64, V, BuildHasherDefault<Plain>>;
