//! The names of commands decided, so that a command that comes again is known.
//!
//! A queue in order of log time, in chunks of [`CHUNK`] entries of 40 bytes, and an [`Index`] over it
//! by the 128-bit fingerprint of the name. New names are added at the end; the oldest go when there
//! are too many or they are too old. Every name has a running number for ever, so a chunk keeps its
//! number too: it is one record of the changelog, replaced by a later one of the same number and
//! deleted when its last name has gone.
//!
//! Memory: 40 bytes an entry and at most 13.4 in the index.

use std::collections::VecDeque;

use crate::index::Index;
use crate::values::Time;

/// Names per chunk: small enough to be written again when one of its names changes, large enough
/// that a chunk's key and header do not count.
pub(crate) const CHUNK: u64 = 256;
/// Bytes of an entry, in memory and in a record.
pub(crate) const ENTRY_BYTES: usize = 40;
/// What a chunk that has gone takes in a changelog, about.
const GONE_BYTES: usize = 24;
/// Names forgotten per decision at most: after a long silence the old ones go bit by bit, not all
/// in front of the first command.
const FORGET_MAX: usize = 64;
/// Slots of the index are the running number's lower 31 bits: more names than that are never kept.
pub(crate) const IDS_MAX: u32 = 1 << 30;
const SLOT_MASK: u64 = 0x7fff_ffff;
/// Marks the number of a decision whose command has no outcome yet.
const PENDING: u64 = 1 << 63;
/// In the place of a number: the name may be used anew. Decisions are numbered from 1.
const FREE: u64 = 0;

/// A name: lower and upper half, content, number with [`PENDING`], log time.
type Entry = [u64; 5];

#[derive(Clone, Debug, Default)]
struct Chunk {
    entries: Vec<Entry>,
    touched: bool,
}

/// What is known of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    /// The decision that carries its outcome; while `pending`, the one that took it in.
    pub(crate) number: u64,
    pub(crate) content: u64,
    pub(crate) pending: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// Running numbers of the oldest name and of the next one.
    first: u64,
    next: u64,
    /// The number of the first chunk.
    chunk_first: u64,
    chunks: VecDeque<Chunk>,
    index: Index,
    /// Numbers of chunks changed since the last drain, the evicted ones among them.
    touched: Vec<u64>,
    /// How many of these are still held.
    touched_held: usize,
}

fn name_of(entry: &Entry) -> u128 {
    let [low, high, ..] = entry;
    u128::from(*low) | u128::from(*high) << 64
}

fn at_of(entry: &Entry) -> Time {
    let [.., at] = entry;
    Time(at.cast_signed())
}

/// The halves of a fingerprint.
fn halves(name: u128) -> (u64, u64) {
    let low = u64::try_from(name & u128::from(u64::MAX)).expect("64 bits are kept");
    let high = u64::try_from(name >> 64).expect("64 bits are left");
    (low, high)
}

/// Fingerprints are hashes already.
fn hash_of(name: u128) -> u64 {
    let (low, high) = halves(name);
    low ^ high
}

fn slot_of(n: u64) -> u32 {
    u32::try_from(n & SLOT_MASK).expect("31 bits are kept")
}

impl Ids {
    fn entry(&self, n: u64) -> Option<&Entry> {
        let chunk = (n / CHUNK).checked_sub(self.chunk_first)?;
        let chunk = self.chunks.get(usize::try_from(chunk).ok()?)?;
        chunk.entries.get(usize::try_from(n % CHUNK).ok()?)
    }

    /// The running number of a name.
    fn find(&self, name: u128) -> Option<u64> {
        let base = self.chunk_first * CHUNK;
        let running =
            |slot: u32| base + (u64::from(slot).wrapping_sub(base & SLOT_MASK) & SLOT_MASK);
        let is = |slot| {
            self.entry(running(slot))
                .is_some_and(|e| name_of(e) == name)
        };
        self.index.find(hash_of(name), is).map(running)
    }

    /// What is known of a name that was decided at `oldest` or later.
    pub(crate) fn get(&self, name: u128, oldest: Time) -> Option<Known> {
        let entry = self.entry(self.find(name)?)?;
        let [_, _, content, number, _] = *entry;
        (at_of(entry) >= oldest && number != FREE).then_some(Known {
            number: number & !PENDING,
            content,
            pending: number & PENDING != 0,
        })
    }

    /// The numbers of at most `limit` names with that upper half, decided at `oldest` or later, newest
    /// first. It looks at every name: for a person's question, not for the way of a command.
    pub(crate) fn with_upper(&self, upper: u64, oldest: Time, limit: usize) -> Vec<u64> {
        let entries = self
            .chunks
            .iter()
            .rev()
            .flat_map(|chunk| chunk.entries.iter().rev());
        let found = entries.filter(|[_, high, _, number, _]| *high == upper && *number != FREE);
        let found = found.filter(|entry| at_of(entry) >= oldest);
        found
            .map(|[_, _, _, number, _]| number & !PENDING)
            .take(limit)
            .collect()
    }

    /// Remembers a name.
    pub(crate) fn insert(
        &mut self,
        name: u128,
        content: u64,
        number: u64,
        at: Time,
        pending: bool,
    ) {
        if let Some(old) = self.find(name) {
            // Too old to be known, or free again, and not forgotten yet.
            self.index.remove(hash_of(name), slot_of(old));
        }
        let n = self.next;
        if self.chunks.is_empty() {
            self.chunk_first = n / CHUNK;
        }
        let chunk = n / CHUNK;
        if chunk - self.chunk_first == self.chunks.len() as u64 {
            // A chunk is filled once and kept long: all its room at once.
            let entries = Vec::with_capacity(usize::try_from(CHUNK).expect("it is small"));
            self.chunks.push_back(Chunk {
                entries,
                touched: false,
            });
        }
        let last = self
            .chunks
            .back_mut()
            .expect("one was pushed if there was none");
        let number = if pending { number | PENDING } else { number };
        let (low, high) = halves(name);
        last.entries
            .push([low, high, content, number, at.0.cast_unsigned()]);
        if !last.touched {
            last.touched = true;
            self.touched.push(chunk);
            self.touched_held += 1;
        }
        self.index.insert(hash_of(name), slot_of(n));
        self.next = n + 1;
    }

    /// A pending name may be used anew. It keeps its place, so that the queue stays dense and a
    /// changelog needs no other record for it.
    pub(crate) fn free(&mut self, name: u128) {
        self.resolve(name, FREE);
    }

    /// A pending name has its outcome, in that decision.
    pub(crate) fn resolve(&mut self, name: u128, number: u64) {
        let Some(n) = self.find(name) else { return };
        let Some(chunk) = (n / CHUNK).checked_sub(self.chunk_first) else {
            return;
        };
        let Some(chunk) = usize::try_from(chunk)
            .ok()
            .and_then(|c| self.chunks.get_mut(c))
        else {
            return;
        };
        let entry = usize::try_from(n % CHUNK)
            .ok()
            .and_then(|i| chunk.entries.get_mut(i));
        if let Some([_, _, _, known, _]) = entry {
            *known = number;
        }
        if !chunk.touched {
            chunk.touched = true;
            self.touched.push(n / CHUNK);
            self.touched_held += 1;
        }
    }

    /// Forgets names decided before `oldest` and the oldest above `max`, a bounded number at a time.
    pub(crate) fn forget(&mut self, oldest: Time, max: u32) {
        let max = u64::from(max.min(IDS_MAX));
        for _ in 0..FORGET_MAX {
            let Some(entry) = self.entry(self.first) else {
                return;
            };
            if at_of(entry) >= oldest && self.next - self.first <= max {
                return;
            }
            let name = name_of(entry);
            self.index.remove(hash_of(name), slot_of(self.first));
            self.first += 1;
            if self.first.is_multiple_of(CHUNK) {
                match self.chunks.pop_front() {
                    Some(chunk) if chunk.touched => self.touched_held -= 1,
                    Some(_) => self.touched.push(self.chunk_first),
                    None => {}
                }
                self.chunk_first += 1;
            }
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.next - self.first
    }

    /// When the oldest name still kept was decided.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.entry(self.first).map(at_of)
    }

    /// Running numbers of the oldest name and of the next one.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.first, self.next)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let chunk = usize::try_from(CHUNK).expect("it is small") * ENTRY_BYTES;
        self.chunks.len() * (chunk + 16)
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.index.memory_bytes()
            + self.touched.capacity() * size_of::<u64>()
    }

    /// About how many bytes the chunks changed since the last drain have. One that has gone is a key
    /// without a value: were it counted as what it held, names that come and go would put off the
    /// drain for ever.
    pub(crate) fn touched_bytes(&self) -> usize {
        let held = usize::try_from(CHUNK).expect("it is small") * RECORD_ENTRY_BYTES;
        self.touched_held * held + (self.touched.len() - self.touched_held) * GONE_BYTES
    }

    /// The numbers of the chunks changed since the last drain.
    pub(crate) fn touched(&self) -> impl Iterator<Item = u64> {
        self.touched.iter().copied()
    }

    /// Notes that a chunk is to be drained, as a snapshot says, or that it is gone.
    pub(crate) fn touch(&mut self, number: u64) {
        let i = number.checked_sub(self.chunk_first);
        let i = i.and_then(|i| usize::try_from(i).ok());
        match i.and_then(|i| self.chunks.get_mut(i)) {
            Some(chunk) if chunk.touched => return,
            Some(chunk) => {
                chunk.touched = true;
                self.touched_held += 1;
            }
            None => {}
        }
        self.touched.push(number);
    }

    /// The numbers of the chunks changed since the last call.
    pub(crate) fn drain_touched(&mut self) -> Vec<u64> {
        let touched = std::mem::take(&mut self.touched);
        self.touched_held = 0;
        for chunk in &touched {
            let i = chunk
                .checked_sub(self.chunk_first)
                .and_then(|i| usize::try_from(i).ok());
            if let Some(chunk) = i.and_then(|i| self.chunks.get_mut(i)) {
                chunk.touched = false;
            }
        }
        touched
    }

    /// The numbers of all chunks.
    pub(crate) fn chunk_numbers(&self) -> std::ops::Range<u64> {
        self.chunk_first..self.chunk_first + self.chunks.len() as u64
    }

    /// The entries of a chunk as bytes; `None` when it has gone.
    pub(crate) fn chunk(&self, number: u64) -> Option<Vec<u8>> {
        let i = usize::try_from(number.checked_sub(self.chunk_first)?).ok()?;
        let chunk = self.chunks.get(i)?;
        let mut bytes = Vec::with_capacity(chunk.entries.len() * RECORD_ENTRY_BYTES);
        write_compact(&chunk.entries, &mut bytes);
        Some(bytes)
    }

    /// Puts back a chunk, in any order and also again; its names count from [`Ids::set_range`] on.
    pub(crate) fn load_chunk(&mut self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let entries = read_compact(bytes).filter(|entries| entries.len() as u64 <= CHUNK);
        let entries = entries.ok_or_else(|| {
            format!("chunk {number} of the names is not whole: restore from an older snapshot")
        })?;
        self.unload_chunk(number);
        if self.chunks.is_empty() {
            self.chunk_first = number;
        }
        while number < self.chunk_first {
            self.chunks.push_front(Chunk::default());
            self.chunk_first -= 1;
        }
        while number - self.chunk_first >= self.chunks.len() as u64 {
            self.chunks.push_back(Chunk::default());
        }
        let names: Vec<u128> = entries.iter().map(name_of).collect();
        // In place before they are indexed: two of them may bear one name.
        let i = usize::try_from(number - self.chunk_first).map_err(|e| e.to_string())?;
        if let Some(chunk) = self.chunks.get_mut(i) {
            chunk.entries = entries;
            let room = usize::try_from(CHUNK).expect("it is small");
            chunk
                .entries
                .reserve_exact(room.saturating_sub(chunk.entries.len()));
        }
        for (n, name) in (number * CHUNK..).zip(names) {
            // Of two with one name the later counts.
            match self.find(name) {
                Some(known) if known > n => continue,
                Some(known) => {
                    self.index.remove(hash_of(name), slot_of(known));
                }
                None => {}
            }
            if n >= self.first {
                self.index.insert(hash_of(name), slot_of(n));
            }
        }
        Ok(())
    }

    /// The running numbers of the oldest name and of the next one, as they were exported. Before or
    /// after the chunks.
    pub(crate) fn set_range(&mut self, first: u64, next: u64) {
        for n in self.chunk_first * CHUNK..first.min(self.chunk_numbers().end * CHUNK) {
            if let Some(name) = self.entry(n).map(name_of) {
                self.index.remove(hash_of(name), slot_of(n));
            }
        }
        (self.first, self.next) = (first, next);
        if self.chunks.is_empty() {
            self.chunk_first = first / CHUNK;
        }
    }

    /// Everything as bytes, the index included: for a snapshot, which only shortens a restart.
    pub(crate) fn dump(&self, out: &mut Vec<u8>) {
        for number in [
            self.first,
            self.next,
            self.chunk_first,
            self.chunks.len() as u64,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for chunk in &self.chunks {
            out.extend_from_slice(&(chunk.entries.len() as u64).to_le_bytes());
            write_entries(&chunk.entries, out);
        }
        self.index.dump(out);
    }

    /// Reads back what [`Ids::dump`] wrote.
    pub(crate) fn restore(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (first, next) = (number(0)?, number(8)?);
        let (chunk_first, count) = (number(16)?, number(24)?);
        let mut chunks = VecDeque::new();
        let mut at = 32;
        for _ in 0..count {
            let len = number(at)?;
            if len > CHUNK {
                return None;
            }
            at += 8;
            let end = at.checked_add(usize::try_from(len).ok()? * ENTRY_BYTES)?;
            let mut entries = read_entries(bytes.get(at..end)?)?;
            entries.reserve_exact(usize::try_from(CHUNK - len).ok()?);
            chunks.push_back(Chunk {
                entries,
                touched: false,
            });
            at = end;
        }
        let (index, used) = Index::restore(bytes.get(at..)?)?;
        let whole = at + used == bytes.len() && first <= next;
        let ids = Self {
            first,
            next,
            chunk_first,
            chunks,
            index,
            touched: Vec::new(),
            touched_held: 0,
        };
        (whole && ids.index.len() as u64 <= ids.len()).then_some(ids)
    }

    /// Every name with content, number and time: what the state's hash is made of.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u128, [u64; 3])> {
        (self.first..self.next)
            .filter_map(|n| self.entry(n))
            .map(|entry| {
                let [.., content, number, at] = *entry;
                (name_of(entry), [content, number, at])
            })
    }
    /// Lets go of a chunk that was loaded and is gone or comes again.
    pub(crate) fn unload_chunk(&mut self, number: u64) {
        let Some(i) = number.checked_sub(self.chunk_first) else {
            return;
        };
        let chunk = usize::try_from(i).ok().and_then(|i| self.chunks.get_mut(i));
        let Some(chunk) = chunk.map(std::mem::take) else {
            return;
        };
        for (n, entry) in (number * CHUNK..).zip(&chunk.entries) {
            self.index.remove(hash_of(name_of(entry)), slot_of(n));
        }
        while self.chunks.front().is_some_and(|c| c.entries.is_empty()) {
            self.chunks.pop_front();
            self.chunk_first += 1;
        }
    }
}

/// What an entry takes in a changelog record, about: fingerprints whole, number and time as what they
/// differ from the entry before.
const RECORD_ENTRY_BYTES: usize = 28;

fn write_compact(entries: &[Entry], out: &mut Vec<u8>) {
    let mut before = [0; 2];
    for [low, high, content, number, at] in entries {
        for word in [low, high, content] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // The mark of a pending name goes lowest, so that it costs no length.
        let now = [number.rotate_left(1), *at];
        for (now, before) in now.iter().zip(before) {
            put_difference(now.wrapping_sub(before).cast_signed(), out);
        }
        before = now;
    }
}

/// The entries that lie in a changelog record; `None` when the last is cut short.
fn read_compact(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut before = [0u64; 2];
    while !bytes.is_empty() {
        let mut words = [0; 3];
        for word in &mut words {
            let (taken, rest) = bytes.split_first_chunk::<8>()?;
            *word = u64::from_le_bytes(*taken);
            bytes = rest;
        }
        for word in &mut before {
            let (difference, rest) = take_difference(bytes)?;
            *word = word.wrapping_add_signed(difference);
            bytes = rest;
        }
        let ([low, high, content], [number, at]) = (words, before);
        entries.push([low, high, content, number.rotate_right(1), at]);
    }
    Some(entries)
}

/// Zigzag, then seven bits a byte, lowest first, the uppermost bit set on all but the last.
fn put_difference(difference: i64, out: &mut Vec<u8>) {
    let mut left = ((difference << 1) ^ (difference >> 63)).cast_unsigned();
    while left > 0x7f {
        out.push(0x80 | u8::try_from(left & 0x7f).expect("seven bits are kept"));
        left >>= 7;
    }
    out.push(u8::try_from(left).expect("seven bits are left"));
}

fn take_difference(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let difference = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
            return Some((difference, bytes.get(i + 1..)?));
        }
    }
    None
}

fn write_entries(entries: &[Entry], out: &mut Vec<u8>) {
    for word in entries.as_flattened() {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The entries that lie in these bytes; `None` when the last is cut short.
fn read_entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    let read = |entry: &[u8; ENTRY_BYTES]| -> Entry {
        let (words, _) = entry.as_chunks::<8>();
        let mut numbers = words.iter().map(|word| u64::from_le_bytes(*word));
        std::array::from_fn(|_| numbers.next().expect("40 bytes are five words"))
    };
    rest.is_empty().then(|| entries.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As good as random, so that the index is spread as by fingerprints.
    fn name(n: u64) -> u128 {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        u128::from(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)) << 64 | u128::from(mixed)
    }

    fn at(n: u64) -> Time {
        Time(i64::try_from(n).expect("small"))
    }

    fn filled(n: u64) -> Ids {
        let mut ids = Ids::default();
        for i in 0..n {
            ids.insert(name(i), i, i + 1, at(i), false);
        }
        ids
    }

    fn get(ids: &Ids, n: u64) -> Option<u64> {
        ids.get(name(n), at(0)).map(|known| known.number)
    }

    #[test]
    fn the_newest_are_known_and_the_oldest_are_not() {
        let mut ids = Ids::default();
        for n in 0..10_000 {
            ids.insert(name(n), n, n + 1, at(n), false);
            ids.forget(at(0), 1_000);
        }
        assert_eq!(ids.len(), 1_000);
        for n in 0..10_000 {
            assert_eq!(get(&ids, n), (n >= 9_000).then_some(n + 1));
        }
    }

    #[test]
    fn a_name_too_old_is_not_known_before_it_is_forgotten() {
        let mut ids = filled(1_000);
        assert_eq!(ids.get(name(499), at(500)), None);
        assert!(ids.get(name(500), at(500)).is_some());
        ids.insert(name(499), 7, 2_000, at(1_000), false);
        assert_eq!(get(&ids, 499), Some(2_000));
        for _ in 0..1_000 {
            ids.forget(at(1_000), 1_000_000);
        }
        assert_eq!((ids.len(), get(&ids, 499)), (1, Some(2_000)));
        assert_eq!(ids.oldest(), Some(at(1_000)));
    }

    #[test]
    fn forgetting_is_bounded_a_time() {
        let mut ids = filled(10_000);
        ids.forget(at(10_000), 1);
        assert_eq!(ids.len(), 10_000 - FORGET_MAX as u64);
    }

    #[test]
    fn a_pending_name_gets_the_number_that_brought_its_outcome() {
        let mut ids = filled(300);
        ids.insert(name(300), 1, 301, at(300), true);
        let known = ids.get(name(300), at(0)).expect("it was just inserted");
        assert!(known.pending && known.number == 301);
        ids.drain_touched();
        ids.resolve(name(300), 309);
        let known = ids.get(name(300), at(0)).expect("it is still there");
        assert!(!known.pending && known.number == 309);
        assert_eq!(ids.drain_touched(), [1]);
    }

    #[test]
    fn a_name_that_is_free_again_is_free_after_a_restore_and_taken_anew() {
        let mut ids = filled(300);
        ids.insert(name(300), 1, 301, at(300), true);
        ids.free(name(300));
        let upper = u64::try_from(name(300) >> 64).expect("64 bits are left");
        for taken in [None, Some(302)] {
            if let Some(number) = taken {
                ids.insert(name(300), 2, number, at(301), false);
            }
            let mut dump = Vec::new();
            ids.dump(&mut dump);
            let dumped = Ids::restore(&dump).expect("it was dumped whole");
            let mut loaded = Ids::default();
            for number in ids.chunk_numbers().rev() {
                let bytes = ids.chunk(number).expect("it is there");
                loaded.load_chunk(number, &bytes).expect("it is whole");
            }
            loaded.set_range(0, ids.next);
            for ids in [&ids, &dumped, &loaded] {
                assert_eq!(get(ids, 300), taken);
                assert_eq!(get(ids, 299), Some(300));
                let found = ids.with_upper(upper, at(0), 9);
                assert_eq!(found, taken.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_dump_reads_back_and_a_cut_or_longer_one_does_not() {
        let mut ids = filled(700);
        ids.forget(at(50), 1_000);
        let mut bytes = Vec::new();
        ids.dump(&mut bytes);
        let restored = Ids::restore(&bytes).expect("it was dumped whole");
        assert!(restored.entries().eq(ids.entries()));
        for n in 0..700 {
            assert_eq!(get(&restored, n), get(&ids, n));
        }
        for cut in (0..bytes.len()).step_by(7) {
            assert!(Ids::restore(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        bytes.push(0);
        assert!(Ids::restore(&bytes).is_none());
    }

    #[test]
    fn chunks_load_in_any_order_and_again() {
        let mut ids = filled(2_000);
        for _ in 0..20 {
            ids.forget(at(900), 1_000_000);
        }
        let (first, next) = ids.range();
        for meta_first in [true, false] {
            let mut loaded = Ids::default();
            if meta_first {
                loaded.set_range(first, next);
            }
            let numbers: Vec<u64> = ids.chunk_numbers().collect();
            for number in numbers.iter().rev().chain(&numbers) {
                let bytes = ids.chunk(*number).expect("it is there");
                loaded.load_chunk(*number, &bytes).expect("it is whole");
            }
            if !meta_first {
                loaded.set_range(first, next);
            }
            assert!(loaded.entries().eq(ids.entries()));
            assert_eq!(loaded.index.len(), ids.index.len());
            for n in 0..2_000 {
                assert_eq!(get(&loaded, n), get(&ids, n));
            }
        }
        assert!(Ids::default().load_chunk(0, &[0; 39]).is_err());
    }

    #[test]
    fn of_two_with_one_name_in_a_chunk_the_later_counts_after_a_restore() {
        let mut ids = filled(10);
        assert_eq!(ids.get(name(3), at(5)), None, "too old");
        ids.insert(name(3), 3, 11, at(10), false);
        let mut loaded = Ids::default();
        let bytes = ids.chunk(0).expect("it is there");
        for _ in 0..2 {
            loaded.load_chunk(0, &bytes).expect("it is whole");
            loaded.set_range(0, 11);
            assert_eq!(loaded.index.len(), ids.index.len());
            assert_eq!(loaded.get(name(3), at(5)), ids.get(name(3), at(5)));
        }
    }

    #[test]
    fn names_that_come_and_go_count_for_no_more_than_those_that_are_kept() {
        let mut ids = Ids::default();
        for n in 0..100_000 {
            ids.insert(name(n), n, n + 1, at(n), false);
            ids.forget(at(0), 1_000);
        }
        let kept = ids.chunk_numbers().count();
        assert!(kept <= 5, "{kept} chunks are held");
        let gone = 100_000 / 256;
        let most = (kept * 256 * RECORD_ENTRY_BYTES) + gone * GONE_BYTES;
        assert!(ids.touched_bytes() <= most, "{}", ids.touched_bytes());
        assert_eq!(ids.drain_touched().len(), 100_000_usize.div_ceil(256));
        assert_eq!(ids.touched_bytes(), 0);
    }

    #[test]
    fn a_changelog_of_touched_chunks_restores_everything() {
        let mut ids = Ids::default();
        let mut log: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
        for n in 0..3_000 {
            ids.insert(name(n), n, n + 1, at(n), n % 5 == 0);
            ids.forget(at(0), 800);
            if n % 7 == 3 {
                ids.resolve(name(n - n % 5), n);
            }
            if n % 100 == 99 {
                for chunk in ids.drain_touched() {
                    log.push((chunk, ids.chunk(chunk)));
                }
            }
        }
        let mut loaded = Ids::default();
        for (number, bytes) in &log {
            match bytes {
                Some(bytes) => loaded.load_chunk(*number, bytes).expect("it is whole"),
                None => loaded.unload_chunk(*number),
            }
        }
        let (first, next) = ids.range();
        loaded.set_range(first, next);
        assert!(loaded.entries().eq(ids.entries()));
        for n in 0..3_000 {
            assert_eq!(loaded.get(name(n), at(0)), ids.get(name(n), at(0)));
        }
    }

    #[test]
    fn stays_within_60_bytes_a_name() {
        let mut ids = Ids::default();
        for n in 0..1_200_000 {
            ids.insert(name(n), n, n + 1, at(n), false);
            ids.forget(at(0), 1_000_000);
            if n % 100_000 == 99_999 {
                ids.drain_touched();
                ids.touched.shrink_to_fit();
                let per_name = ids.memory_bytes() as u64 / ids.len();
                assert!(per_name <= 55, "{per_name} bytes at {n}");
            }
        }
    }
}
