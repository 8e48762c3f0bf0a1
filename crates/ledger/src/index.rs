//! A hash index from a 64-bit hash to a 32-bit slot, for tables that keep their entries elsewhere.
//!
//! Open addressing with linear probing. An entry is one word: the lower half of the hash and the
//! slot, so that a probe reads no name and a removal moves entries back without one. The index is
//! cut into [`PARTS`] by the uppermost bits of the hash, and each part grows by a quarter on its own:
//! one insertion never moves more than a 64th of the index.
//!
//! Memory: 8 bytes an entry at a load of 60 to 75 %, so 10.7 to 13.4 bytes. Above that load a search for
//! what is not there reads a second cache line.

/// Parts of an index. With 64 a part of a million entries is moved in well below a millisecond.
const PARTS: usize = 64;
/// Smallest capacity of a part that holds anything.
const CAPACITY_MIN: usize = 8;
/// An empty place. No entry equals it: slots are stored plus one.
const EMPTY: u64 = 0;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// None before the first insertion: an empty index costs nothing.
    parts: Vec<Part>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Part {
    words: Vec<u64>,
    len: usize,
}

/// An entry: the lower half of the hash above, the slot plus one below.
fn word(hash: u64, slot: u32) -> u64 {
    (hash << 32) | u64::from(slot.checked_add(1).expect("slots end below u32::MAX"))
}

/// The slot of a word that is not empty.
fn slot_of(word: u64) -> u32 {
    u32::try_from((word & 0xffff_ffff) - 1).expect("32 bits are kept")
}

/// Where an entry belongs in a part of that capacity.
fn home(word: u64, capacity: usize) -> usize {
    let stored = word >> 32;
    usize::try_from((stored * capacity as u64) >> 32).expect("it is below the capacity")
}

fn part_of(hash: u64) -> usize {
    usize::try_from(hash >> 58).expect("six bits are kept")
}

impl Part {
    fn at(&self, i: usize) -> u64 {
        self.words.get(i).copied().unwrap_or(EMPTY)
    }

    fn put(&mut self, i: usize, word: u64) {
        if let Some(place) = self.words.get_mut(i) {
            *place = word;
        }
    }

    /// The place after `i`.
    fn next(&self, i: usize) -> usize {
        if i + 1 == self.words.len() { 0 } else { i + 1 }
    }

    fn place_free(&mut self, word: u64) {
        let mut i = home(word, self.words.len());
        while self.at(i) != EMPTY {
            i = self.next(i);
        }
        self.put(i, word);
    }

    fn insert(&mut self, word: u64) {
        if (self.len + 1) * 4 > self.words.len() * 3 {
            let capacity = (self.words.len() * 5 / 4 + 1).max(CAPACITY_MIN);
            let old = std::mem::replace(&mut self.words, vec![EMPTY; capacity]);
            for word in old {
                if word != EMPTY {
                    self.place_free(word);
                }
            }
        }
        self.place_free(word);
        self.len += 1;
    }

    /// Empties a place, moving back what had been pushed past it.
    fn clear(&mut self, mut hole: usize) {
        let capacity = self.words.len();
        self.len -= 1;
        let mut i = hole;
        loop {
            i = self.next(i);
            let word = self.at(i);
            if word == EMPTY {
                break;
            }
            let distance_home = (i + capacity - home(word, capacity)) % capacity;
            let distance_hole = (i + capacity - hole) % capacity;
            if distance_home >= distance_hole {
                self.put(hole, word);
                hole = i;
            }
        }
        self.put(hole, EMPTY);
    }

    /// The place whose hash half is `stored` and whose slot `is` accepts.
    fn find(&self, stored: u64, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        if self.words.is_empty() {
            return None;
        }
        let mut i = home(stored << 32, self.words.len());
        loop {
            let word = self.at(i);
            if word == EMPTY {
                return None;
            }
            if word >> 32 == stored && is(slot_of(word)) {
                return Some(i);
            }
            i = self.next(i);
        }
    }
}

impl Index {
    /// The slot with that hash that `is` accepts.
    pub(crate) fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        let part = self.parts.get(part_of(hash))?;
        part.find(hash & 0xffff_ffff, is)
            .map(|i| slot_of(part.at(i)))
    }

    /// Adds an entry, which must not be there yet.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, Part::default);
        }
        if let Some(part) = self.parts.get_mut(part_of(hash)) {
            part.insert(word(hash, slot));
            self.len += 1;
        }
    }

    /// Takes that entry out, if it is there.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let Some(part) = self.parts.get_mut(part_of(hash)) else {
            return false;
        };
        match part.find(hash & 0xffff_ffff, |s| s == slot) {
            Some(i) => {
                part.clear(i);
                self.len -= 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let words: usize = self.parts.iter().map(|part| part.words.capacity()).sum();
        words * size_of::<u64>() + self.parts.capacity() * size_of::<Part>()
    }

    /// The index as words, for a snapshot: per part its capacity and its places.
    pub(crate) fn dump(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.parts.len() as u64).to_le_bytes());
        for part in &self.parts {
            out.extend_from_slice(&(part.words.len() as u64).to_le_bytes());
            for word in &part.words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Reads back what [`Index::dump`] wrote, and how many bytes it took; `None` when it is cut short
    /// or not an index.
    pub(crate) fn restore(bytes: &[u8]) -> Option<(Self, usize)> {
        let number = |at: usize| -> Option<usize> {
            let word: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
            usize::try_from(u64::from_le_bytes(word)).ok()
        };
        let count = number(0)?;
        if count != 0 && count != PARTS {
            return None;
        }
        let mut index = Self {
            parts: Vec::with_capacity(count),
            len: 0,
        };
        let mut used = 8;
        for _ in 0..count {
            let capacity = number(used)?;
            used += 8;
            let end = capacity.checked_mul(8)?.checked_add(used)?;
            let words: Vec<u64> = bytes
                .get(used..end)?
                .as_chunks::<8>()
                .0
                .iter()
                .map(|word| u64::from_le_bytes(*word))
                .collect();
            used = end;
            let len = words.iter().filter(|word| **word != EMPTY).count();
            if capacity > 0 && len == capacity {
                return None;
            }
            index.len += len;
            index.parts.push(Part { words, len });
        }
        Some((index, used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17)
            .wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn finds_what_was_inserted_and_not_what_was_removed() {
        let mut index = Index::default();
        for n in 0..20_000u32 {
            index.insert(hash(u64::from(n)), n);
        }
        for n in (0..20_000u32).step_by(3) {
            assert!(index.remove(hash(u64::from(n)), n));
            assert!(!index.remove(hash(u64::from(n)), n));
        }
        for n in 0..20_000u32 {
            let found = index.find(hash(u64::from(n)), |slot| slot == n);
            assert_eq!(found, (n % 3 != 0).then_some(n));
        }
        assert_eq!(index.len(), 20_000 - 6_667);
        assert_eq!(index.find(hash(1 << 40), |_| true), None);
    }

    #[test]
    fn equal_hashes_are_told_apart_by_slot() {
        let mut index = Index::default();
        for slot in 0..100 {
            index.insert(7, slot);
        }
        for slot in 0..50 {
            assert!(index.remove(7, slot));
        }
        for slot in 0..100 {
            assert_eq!(index.find(7, |s| s == slot), (slot >= 50).then_some(slot));
        }
    }

    #[test]
    fn a_dump_reads_back_and_a_cut_one_does_not() {
        let mut index = Index::default();
        for n in 0..1_000u32 {
            index.insert(hash(u64::from(n)), n);
        }
        let mut bytes = Vec::new();
        index.dump(&mut bytes);
        let (restored, used) = Index::restore(&bytes).expect("it was dumped whole");
        assert_eq!(used, bytes.len());
        assert_eq!(restored.len(), 1_000);
        for n in 0..1_000u32 {
            assert_eq!(restored.find(hash(u64::from(n)), |slot| slot == n), Some(n));
        }
        for cut in 0..bytes.len() {
            assert!(Index::restore(&bytes[..cut]).is_none());
        }
    }

    #[test]
    fn stays_within_its_bytes_an_entry() {
        let mut index = Index::default();
        for n in 0..1_000_000u32 {
            index.insert(hash(u64::from(n)), n);
            if n > 100_000 && n % 50_000 == 0 {
                assert!(index.memory_bytes() <= index.len() * 14, "at {n} entries");
            }
        }
    }
}
