//! What a changelog is owed: which records changed since the last drain, and about how many bytes they
//! take there.

/// What a log takes for a record beside its key and value, about.
const RECORD_BYTES: usize = 12;

/// Keys of records that changed since the last drain. Each record keeps what it counts for, 0 while it
/// is not among them, so that one that changes often is in the list once, as it is now.
#[derive(Debug)]
pub(crate) struct Touched<K> {
    keys: Vec<K>,
    bytes: usize,
}

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            bytes: 0,
        }
    }
}

impl<K> Touched<K> {
    /// A record changed, or is gone; `counted` is what it counts for, or counted for while it was
    /// there. Its key and value take that many bytes now.
    pub(crate) fn count(&mut self, counted: &mut usize, bytes: usize, key: impl FnOnce() -> K) {
        if *counted == 0 {
            self.keys.push(key());
        }
        let bytes = bytes + RECORD_BYTES;
        self.bytes = self.bytes + bytes - *counted;
        *counted = bytes;
    }

    /// About how many bytes the records have.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn keys(&self) -> &[K] {
        &self.keys
    }

    /// The keys; whoever takes them sets what their records count for to 0.
    pub(crate) fn drain(&mut self) -> Vec<K> {
        self.bytes = 0;
        std::mem::take(&mut self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_touched_again_counts_once_and_as_it_is_now() {
        let (mut touched, mut one, mut other) = (Touched::default(), 0, 0);
        for bytes in (1..1_000).chain([50]) {
            touched.count(&mut one, bytes, || "a");
        }
        assert_eq!(touched.bytes(), 50 + RECORD_BYTES);
        touched.count(&mut other, 8, || "b");
        assert_eq!(touched.bytes(), 58 + 2 * RECORD_BYTES);
        assert_eq!(touched.drain(), ["a", "b"]);
        assert_eq!((touched.bytes(), touched.keys().len()), (0, 0));
    }
}
