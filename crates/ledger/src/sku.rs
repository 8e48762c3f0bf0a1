//! The SKUs of a partition: their names, their positions, and what hangs on them.
//!
//! Laid out for memory: long names lie in an arena, a SKU with one position has it inline, figures that
//! are mostly zero and everything about counts lie in a box that most positions never need.

use std::cmp::Ordering;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::decision::Place;
use crate::fold::{Bounds, Count, Counts, Entry, Fold, FoldMut};
use crate::hold::Holds;
use crate::index::Index;
use crate::values::Time;

/// Bytes of names per block of the arena: large enough that the blocks' headers do not count.
const NAME_BLOCK: usize = 1 << 16;
/// SKUs per block of the table: growing never moves the SKUs that are there.
const SKU_BLOCK: usize = 256;
/// End of a list of [`Seq`]s.
const NO_SEQ: u32 = u32::MAX;

/// The quantities of all states at one position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
}

impl Figures {
    /// What is free to promise, exactly.
    pub(crate) fn available(&self) -> i128 {
        i128::from(self.on_hand)
            - i128::from(self.reserved)
            - i128::from(self.committed)
            - i128::from(self.damaged)
            - i128::from(self.quality_control)
    }

    /// The figures after that much entered a place of this position (below 0: left it); `None` when
    /// one would leave its range.
    pub(crate) fn entered(mut self, place: Place, quantity: i64) -> Option<Self> {
        let state = match place {
            Place::Supplier | Place::Customer | Place::Loss => return Some(self),
            Place::Available(_) => None,
            Place::Reserved(_) => Some(&mut self.reserved),
            Place::Committed(_) => Some(&mut self.committed),
            Place::Damaged(_) => Some(&mut self.damaged),
            Place::QualityControl(_) => Some(&mut self.quality_control),
        };
        if let Some(state) = state {
            *state = state.checked_add(quantity)?;
        }
        self.on_hand = self.on_hand.checked_add(quantity)?;
        Some(self)
    }

    /// Whether more is promised or blocked than is there.
    pub(crate) fn oversold(&self) -> bool {
        self.available() < 0
    }
}

/// What few positions need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rare {
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
    /// Since when `available` is below zero.
    pub(crate) oversold_since: Option<Time>,
    pub(crate) counts: Counts,
}

/// One SKU at one location.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) on_hand: i64,
    /// Rises by 1 with every decision that changes a figure.
    pub(crate) sequence: u64,
    /// The decision that changed a figure last, and its log time.
    pub(crate) number: u64,
    pub(crate) at: Time,
    pub(crate) rare: Option<Box<Rare>>,
    /// What moved on hand, damaged and quality control, by event time.
    pub(crate) entries: Vec<Entry>,
    /// Into [`SkuTable`]'s locations.
    pub(crate) location: u32,
    /// It stands in the list of what changed since the last drain.
    pub(crate) touched: bool,
}

impl Position {
    pub(crate) fn new(location: u32) -> Self {
        Self {
            on_hand: 0,
            sequence: 0,
            number: 0,
            at: Time(0),
            rare: None,
            entries: Vec::new(),
            location,
            touched: false,
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        match &self.rare {
            None => Figures {
                on_hand: self.on_hand,
                ..Figures::default()
            },
            Some(rare) => Figures {
                on_hand: self.on_hand,
                reserved: rare.reserved,
                committed: rare.committed,
                damaged: rare.damaged,
                quality_control: rare.quality_control,
            },
        }
    }

    /// Its figures by event time.
    pub(crate) fn fold(&self) -> Fold<'_> {
        Fold {
            entries: &self.entries,
            counts: self.rare.as_ref().map(|rare| &rare.counts),
        }
    }

    /// Its figures by event time, to change.
    pub(crate) fn fold_mut(&mut self) -> FoldMut<'_> {
        FoldMut {
            entries: &mut self.entries,
            counts: self.rare.as_mut().map(|rare| &mut rare.counts),
        }
    }

    /// Keeps a count that holds.
    pub(crate) fn keep_count(&mut self, count: Count) {
        self.rare.get_or_insert_default();
        self.fold_mut().keep(count);
    }

    /// Keeps the fold within its bounds.
    pub(crate) fn settle(&mut self, bounds: Bounds) {
        if self.rare.is_none() && self.fold().needs_counts(bounds) {
            self.rare = Some(Box::default());
        }
        self.fold_mut().settle(bounds);
    }

    /// Whether something disagrees here: more promised than there is, or an open drift.
    pub(crate) fn in_conflict(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.oversold_since.is_some() || rare.counts.drifts > 0)
    }

    /// Whether more is promised or blocked than is there.
    pub(crate) fn oversold(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.oversold_since.is_some())
    }

    /// Puts figures in place, at that log time.
    pub(crate) fn set_figures(&mut self, figures: Figures, at: Time) {
        self.on_hand = figures.on_hand;
        let oversold = figures.oversold();
        let plain = figures
            == Figures {
                on_hand: figures.on_hand,
                ..Figures::default()
            };
        if plain
            && !oversold
            && self
                .rare
                .as_ref()
                .is_none_or(|rare| rare.counts.is_default())
        {
            self.rare = None;
            return;
        }
        let rare = self.rare.get_or_insert_default();
        rare.reserved = figures.reserved;
        rare.committed = figures.committed;
        rare.damaged = figures.damaged;
        rare.quality_control = figures.quality_control;
        rare.oversold_since = oversold.then(|| rare.oversold_since.unwrap_or(at));
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let rare = self.rare.as_ref();
        rare.map_or(0, |rare| {
            heap(size_of::<Rare>()) + rare.counts.memory_bytes()
        }) + heap(self.entries.capacity() * size_of::<Entry>())
    }
}

/// A SKU's positions in order of location number. Most SKUs of a shop have one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Positions {
    #[default]
    None,
    One(Position),
    Many(Vec<Position>),
}

impl Positions {
    pub(crate) fn as_slice(&self) -> &[Position] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Position] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn find(&self, location: u32) -> Option<&Position> {
        match self {
            Self::None => None,
            Self::One(one) => (one.location == location).then_some(one),
            Self::Many(many) => many
                .binary_search_by_key(&location, |p| p.location)
                .ok()
                .and_then(|i| many.get(i)),
        }
    }

    /// The position there, made if it is new; and whether it is.
    pub(crate) fn entry(&mut self, location: u32) -> (&mut Position, bool) {
        let found = self
            .as_slice()
            .binary_search_by_key(&location, |p| p.location);
        if let Err(i) = found {
            let new = Position::new(location);
            match std::mem::take(self) {
                Self::None => *self = Self::One(new),
                Self::One(one) => {
                    let mut many = vec![one];
                    many.insert(i, new);
                    *self = Self::Many(many);
                }
                Self::Many(mut many) => {
                    many.insert(i, new);
                    *self = Self::Many(many);
                }
            }
        }
        let (Ok(i) | Err(i)) = found;
        (
            self.as_mut_slice()
                .get_mut(i)
                .expect("it was found or inserted there"),
            found.is_err(),
        )
    }
}

/// What few SKUs need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extra {
    /// As an `item` command declared it.
    pub(crate) unit: Option<Box<str>>,
    pub(crate) name: Option<Box<str>>,
    /// The newest count of any figure at any location.
    pub(crate) newest_count: Option<Time>,
}

/// One SKU: what its owner keeps of it.
#[derive(Debug)]
pub(crate) struct SkuState {
    pub(crate) positions: Positions,
    pub(crate) holds: Holds,
    pub(crate) extra: Option<Box<Extra>>,
    name: Name,
    seq_first: u32,
    pub(crate) decimals: u8,
    /// It stands in the list of what changed since the last drain.
    pub(crate) touched: bool,
}

impl SkuState {
    /// The time of its newest count of any figure at any location.
    pub(crate) fn newest_count(&self) -> Option<Time> {
        self.extra.as_ref().and_then(|extra| extra.newest_count)
    }

    /// Whether decimals can no longer be declared.
    pub(crate) fn has_entries(&self) -> bool {
        !self.positions.as_slice().is_empty() || !self.holds.is_empty()
    }
}

/// Bytes of a name that lies with its SKU. Most are so short, and comparing one then reads no other
/// cache line.
const NAME_SHORT: usize = 14;

/// A SKU's name, or where it lies in the arena.
#[derive(Clone, Copy, Debug)]
enum Name {
    Short { len: u8, bytes: [u8; NAME_SHORT] },
    Long { block: u32, start: u16, len: u16 },
}

/// The highest `seq` of a source for a SKU, in a list per SKU with the last used first.
#[derive(Clone, Copy, Debug)]
struct Seq {
    seq: u64,
    source: u32,
    next: u32,
}

/// Names that number themselves 0, 1, 2 ... and are never forgotten: locations, sources.
#[derive(Debug, Default)]
pub(crate) struct Names {
    list: Vec<Box<str>>,
    index: Index,
}

impl Names {
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.index
            .find(xxh3_64(name.as_bytes()), |slot| self.get(slot) == name)
    }

    /// Its number, given now if it is new.
    pub(crate) fn intern(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let slot = u32::try_from(self.list.len()).expect("fewer than 2^32 names");
        self.list.push(name.into());
        self.index.insert(xxh3_64(name.as_bytes()), slot);
        slot
    }

    pub(crate) fn get(&self, slot: u32) -> &str {
        self.list
            .get(slot as usize)
            .expect("numbers come from this table")
    }

    fn memory_bytes(&self) -> usize {
        let names: usize = self.list.iter().map(|name| heap(name.len())).sum();
        names + self.list.capacity() * size_of::<Box<str>>() + self.index.memory_bytes()
    }
}

/// All SKUs of a partition. A SKU keeps its slot for ever.
#[derive(Default)]
pub(crate) struct SkuTable {
    blocks: Vec<Vec<SkuState>>,
    len: u32,
    index: Index,
    names: Vec<Vec<u8>>,
    pub(crate) locations: Names,
    sources: Names,
    seqs: Vec<Seq>,
    /// Slots in byte order of name, of the first [`SkuTable::sorted_len`] SKUs.
    sorted: Vec<u32>,
}

impl fmt::Debug for SkuTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkuTable")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl SkuTable {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The slots of all SKUs, in the order in which they were first named.
    pub(crate) fn slots(&self) -> std::ops::Range<u32> {
        0..self.len
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.index.find(xxh3_64(name.as_bytes()), |slot| {
            self.name_bytes(slot) == name.as_bytes()
        })
    }

    pub(crate) fn get(&self, slot: u32) -> &SkuState {
        let slot = slot as usize;
        self.blocks
            .get(slot / SKU_BLOCK)
            .and_then(|block| block.get(slot % SKU_BLOCK))
            .expect("slots come from this table")
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut SkuState {
        let slot = slot as usize;
        self.blocks
            .get_mut(slot / SKU_BLOCK)
            .and_then(|block| block.get_mut(slot % SKU_BLOCK))
            .expect("slots come from this table")
    }

    pub(crate) fn name(&self, slot: u32) -> &str {
        std::str::from_utf8(self.name_bytes(slot)).expect("names are text")
    }

    fn name_bytes(&self, slot: u32) -> &[u8] {
        let bytes = match &self.get(slot).name {
            Name::Short { len, bytes } => bytes.get(..usize::from(*len)),
            Name::Long { block, start, len } => {
                let start = usize::from(*start);
                let block = self.names.get(*block as usize);
                block.and_then(|block| block.get(start..start + usize::from(*len)))
            }
        };
        bytes.expect("names are kept whole")
    }

    /// The SKU of that name, made if it is new; and whether it is.
    pub(crate) fn entry(&mut self, name: &str) -> (u32, bool) {
        if let Some(slot) = self.find(name) {
            return (slot, false);
        }
        let slot = self.len;
        let sku = SkuState {
            positions: Positions::None,
            holds: Holds::default(),
            extra: None,
            name: self.keep(name),
            seq_first: NO_SEQ,
            decimals: 0,
            touched: false,
        };
        if (slot as usize).is_multiple_of(SKU_BLOCK) {
            self.blocks.push(Vec::with_capacity(SKU_BLOCK));
        }
        self.blocks
            .last_mut()
            .expect("a block was pushed for slot 0")
            .push(sku);
        self.len = slot.checked_add(1).expect("fewer than 2^32 SKUs");
        self.index.insert(xxh3_64(name.as_bytes()), slot);
        (slot, true)
    }

    fn keep(&mut self, name: &str) -> Name {
        let mut bytes = [0; NAME_SHORT];
        if let (Some(place), Ok(len)) = (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            place.copy_from_slice(name.as_bytes());
            return Name::Short { len, bytes };
        }
        let full = self
            .names
            .last()
            .is_none_or(|block| block.len() + name.len().max(1) > NAME_BLOCK);
        if full {
            self.names.push(Vec::with_capacity(NAME_BLOCK));
        }
        let block = u32::try_from(self.names.len() - 1).expect("fewer than 2^32 blocks");
        let last = self
            .names
            .last_mut()
            .expect("one was pushed if there was none");
        let start = u16::try_from(last.len()).expect("a name of at least a byte fits the block");
        let len = u16::try_from(name.len()).expect("the edge caps names at 255 bytes");
        last.extend_from_slice(name.as_bytes());
        Name::Long { block, start, len }
    }

    /// The highest `seq` of that source for the SKU.
    pub(crate) fn seq(&self, slot: u32, source: &str) -> Option<u64> {
        let source = self.sources.find(source)?;
        self.seqs_of(slot)
            .find(|seq| seq.source == source)
            .map(|seq| seq.seq)
    }

    /// Raises the highest `seq` of that source for the SKU.
    pub(crate) fn set_seq(&mut self, slot: u32, source: &str, to: u64) {
        let source = self.sources.intern(source);
        let first = self.get(slot).seq_first;
        let (mut before, mut i) = (NO_SEQ, first);
        while let Some(seq) = self.seqs.get_mut(i as usize) {
            if seq.source == source {
                seq.seq = seq.seq.max(to);
                if before != NO_SEQ {
                    let next = std::mem::replace(&mut seq.next, first);
                    if let Some(before) = self.seqs.get_mut(before as usize) {
                        before.next = next;
                    }
                    self.get_mut(slot).seq_first = i;
                }
                return;
            }
            (before, i) = (i, seq.next);
        }
        let new = u32::try_from(self.seqs.len()).expect("fewer than 2^32 pairs of source and SKU");
        self.seqs.push(Seq {
            seq: to,
            source,
            next: first,
        });
        self.get_mut(slot).seq_first = new;
    }

    fn seqs_of(&self, slot: u32) -> impl Iterator<Item = Seq> {
        let mut i = self.get(slot).seq_first;
        std::iter::from_fn(move || {
            let seq = *self.seqs.get(i as usize)?;
            i = seq.next;
            Some(seq)
        })
    }

    /// Every source's highest `seq` for the SKU, in byte order of source.
    pub(crate) fn seqs(&self, slot: u32) -> Vec<(&str, u64)> {
        let mut seqs: Vec<_> = self
            .seqs_of(slot)
            .map(|seq| (self.sources.get(seq.source), seq.seq))
            .collect();
        seqs.sort_unstable();
        seqs
    }

    /// All slots in byte order of name. New ones are sorted in when somebody asks.
    pub(crate) fn sorted(&mut self) -> &[u32] {
        let known = self.sorted.len();
        if known < self.len() {
            let mut sorted = std::mem::take(&mut self.sorted);
            let start = u32::try_from(known).expect("slots are 32 bits");
            sorted.extend(start..self.len);
            // Two sorted runs are merged in linear time by the stable sort.
            if let Some(new) = sorted.get_mut(known..) {
                new.sort_unstable_by(|a, b| self.name(*a).cmp(self.name(*b)));
            }
            sorted.sort_by(|a, b| self.name(*a).cmp(self.name(*b)));
            self.sorted = sorted;
        }
        &self.sorted
    }

    /// At most `limit` slots with that prefix above `after`, in byte order of name.
    pub(crate) fn list(&mut self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<u32> {
        self.sorted();
        let below = |slot: &u32| match after {
            Some(after) if after >= prefix => self.name(*slot).cmp(after) != Ordering::Greater,
            _ => self.name(*slot) < prefix,
        };
        let start = self.sorted.partition_point(below);
        self.sorted
            .get(start..)
            .unwrap_or_default()
            .iter()
            .copied()
            .take_while(|slot| self.name(*slot).starts_with(prefix))
            .take(limit)
            .collect()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let skus: usize = self
            .blocks
            .iter()
            .flatten()
            .map(SkuState::memory_bytes)
            .sum();
        skus + self.blocks.len() * heap(SKU_BLOCK * size_of::<SkuState>())
            + self.blocks.capacity() * size_of::<Vec<SkuState>>()
            + self.names.len() * heap(NAME_BLOCK)
            + self.index.memory_bytes()
            + self.locations.memory_bytes()
            + self.sources.memory_bytes()
            + self.seqs.capacity() * size_of::<Seq>()
            + self.sorted.capacity() * size_of::<u32>()
    }
}

impl SkuState {
    fn memory_bytes(&self) -> usize {
        let extra = match &self.extra {
            None => 0,
            Some(extra) => {
                let text = |t: &Option<Box<str>>| t.as_ref().map_or(0, |t| heap(t.len()));
                heap(size_of::<Extra>()) + text(&extra.unit) + text(&extra.name)
            }
        };
        let many = match &self.positions {
            Positions::Many(many) => heap(many.capacity() * size_of::<Position>()),
            _ => 0,
        };
        let positions: usize = self
            .positions
            .as_slice()
            .iter()
            .map(Position::memory_bytes)
            .sum();
        extra + many + positions + self.holds.memory_bytes()
    }
}

/// What an allocation of that many bytes takes from a common allocator: a word of its own, in steps
/// of 16.
pub(crate) fn heap(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        (bytes + 8).next_multiple_of(16).max(32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_are_found_and_given_back() {
        let mut table = SkuTable::default();
        let names: Vec<String> = (1..=255).map(|len| "x".repeat(len)).collect();
        for (slot, name) in (0..).zip(&names) {
            assert_eq!(table.find(name), None);
            assert_eq!(table.entry(name), (slot, true));
        }
        // Enough to fill more than one block of the arena.
        let more: Vec<String> = (0..1_000).map(|n| format!("{n:0>200}")).collect();
        for name in &more {
            table.entry(name);
        }
        for (slot, name) in (0..).zip(names.iter().chain(&more)) {
            assert_eq!(
                (table.find(name), table.name(slot)),
                (Some(slot), name.as_str())
            );
            assert_eq!(table.entry(name), (slot, false));
        }
    }

    #[test]
    fn the_highest_seq_is_kept_per_source_and_the_last_used_is_found_first() {
        let mut table = SkuTable::default();
        let (a, b) = (table.entry("a").0, table.entry("b").0);
        for (source, seq) in [("file/1", 3), ("file/2", 9), ("file/1", 7), ("file/3", 1)] {
            table.set_seq(a, source, seq);
        }
        // Never lowered, whoever asks.
        table.set_seq(a, "file/1", 5);
        table.set_seq(b, "file/1", 2);
        table.set_seq(a, "file/2", 11);
        assert_eq!(
            table.seqs(a),
            [("file/1", 7), ("file/2", 11), ("file/3", 1)]
        );
        assert_eq!(
            (table.seq(b, "file/1"), table.seq(b, "file/2")),
            (Some(2), None)
        );
        assert_eq!(table.seqs_of(a).next().map(|seq| seq.seq), Some(11));
    }

    #[test]
    fn a_position_with_plain_figures_needs_no_box() {
        let mut position = Position::new(0);
        let damaged = Figures {
            on_hand: 5,
            damaged: 2,
            ..Figures::default()
        };
        position.set_figures(damaged, Time(1));
        assert!(position.rare.is_some() && position.figures() == damaged);
        position.set_figures(
            Figures {
                on_hand: 5,
                ..Figures::default()
            },
            Time(2),
        );
        assert!(position.rare.is_none());
        position.set_figures(
            Figures {
                on_hand: -1,
                ..Figures::default()
            },
            Time(3),
        );
        position.set_figures(
            Figures {
                on_hand: -2,
                ..Figures::default()
            },
            Time(4),
        );
        assert_eq!(
            position.rare.as_ref().and_then(|rare| rare.oversold_since),
            Some(Time(3))
        );
    }
}
