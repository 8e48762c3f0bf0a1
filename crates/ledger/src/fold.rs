//! The fold by event time: what moved, what was counted, and what that makes of a figure.
//!
//! A position keeps, for each of the figures on hand, damaged and quality control, the sum of what
//! moved at each event time ([`Entry`]) and the counts that hold ([`Count`]), each with its
//! correction as it stands now. The figure itself is all of it added up, so the figure as of a time is
//! the figure less what lies after that time. Three rules make the result independent of the order of
//! arrival:
//!
//! - What moved at a time is *absorbed* by the next count at or after that time: the count's
//!   correction changes by the opposite ([`Fold::absorbed_by`]).
//! - A new count's correction is what it says less the figure at its time; the next count's correction
//!   changes by the opposite ([`Fold::judge`]).
//! - Of counts at one time the one with the greatest (source, id) holds.
//!
//! ```text
//!    base │ sums per minute      │ sums per second   │ sums per millisecond      ──► event time
//!    ─────┼──────────────────────┼───────────────────┼──────────────── newest
//!  up to the horizon       `minutes_until`      `seconds_until`
//! ```
//!
//! Memory is bounded in three ways. What is older than the horizon is dropped into the *base*, of
//! which only the latest time and the latest count of each figure are kept. Above a number of
//! distinct times (`times_max`) the sums up to an hour before the newest are merged into whole
//! minutes and the others into whole seconds, never across a count of their figure. Counts above
//! `times_max` push the base forward. So a position holds at most `times_max` counts, and sums for at
//! most 72 * 60 minutes, 3,600 seconds, one second of milliseconds and the spans cut by counts.

use crate::command::Figure;
use crate::sku::heap;
use crate::values::{Quantity, Time};

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// A list up to this long is looked at every time for what is older than the horizon, a longer one
/// each time its length is a multiple: so it holds up to this many entries more than it must.
const LOOK_ENTRIES: usize = 16;

/// Tag of the entry that marks the base's latest time. It sorts after the figures of its time.
const BASE: u8 = 3;

/// What moved a figure at an event time, in all; or, as the first of all, the base's latest time.
///
/// The time lies in the upper 62 bits of the key, the figure in the lower 2. Two entries may have one
/// key where their sum would leave the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    key: i64,
    delta: i64,
}

impl Entry {
    fn new(at: Time, tag: u8, delta: i64) -> Self {
        Self {
            key: (at.0 << 2) | i64::from(tag),
            delta,
        }
    }

    fn base(at: Time) -> Self {
        Self::new(at, BASE, 0)
    }

    fn at(self) -> Time {
        Time(self.key >> 2)
    }

    fn is_base(self) -> bool {
        self.key & 3 == i64::from(BASE)
    }

    fn is(self, figure: Figure) -> bool {
        self.key & 3 == i64::from(tag(figure))
    }

    /// As two numbers, for a record.
    pub(crate) fn to_raw(self) -> (i64, i64) {
        (self.key, self.delta)
    }

    pub(crate) fn from_raw(key: i64, delta: i64) -> Self {
        Self { key, delta }
    }
}

fn tag(figure: Figure) -> u8 {
    match figure {
        Figure::OnHand => 0,
        Figure::Damaged => 1,
        Figure::QualityControl => 2,
    }
}

/// A count that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    /// The time it is taken at: as it was counted, or the end of a merged span.
    pub(crate) at: Time,
    /// When it was counted.
    pub(crate) counted_at: Time,
    pub(crate) figure: Figure,
    /// Opening stock: never drift.
    pub(crate) opening: bool,
    pub(crate) counted: Quantity,
    /// What it adds to the figure, as it stands now.
    pub(crate) correction: i64,
    pub(crate) source: Box<str>,
    pub(crate) id: Box<str>,
}

impl Count {
    /// What the ledger says at its time, as known now.
    pub(crate) fn expected(&self) -> i128 {
        i128::from(self.counted.0) - i128::from(self.correction)
    }

    pub(crate) fn is_drift(&self) -> bool {
        self.correction != 0 && !self.opening
    }

    /// Whether it holds against another of the same figure and time.
    fn beats(&self, counted_at: Time, source: &str, id: &str) -> bool {
        (self.counted_at, &*self.source, &*self.id) >= (counted_at, source, id)
    }
}

/// The counts of a position, and how far its sums are merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// By time, then figure.
    pub(crate) live: Vec<Count>,
    /// The latest of each figure that lies in the base.
    pub(crate) base: Vec<Count>,
    /// Sums up to here are per minute, then up to there per second.
    pub(crate) minutes_until: Time,
    pub(crate) seconds_until: Time,
    /// The number of entries at which to look again whether there are too many times.
    pub(crate) look_at: u32,
    /// How many of the counts are open drifts.
    pub(crate) drifts: u32,
}

impl Default for Counts {
    fn default() -> Self {
        let never = Time(i64::MIN);
        Self {
            live: Vec::new(),
            base: Vec::new(),
            minutes_until: never,
            seconds_until: never,
            look_at: 0,
            drifts: 0,
        }
    }
}

impl Counts {
    pub(crate) fn is_default(&self) -> bool {
        self.live.is_empty() && self.base.is_empty() && self.look_at == 0
    }

    /// Every count remembered, the base's first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Count> {
        self.base.iter().chain(&self.live)
    }

    /// Counts the drifts again, after a count or a correction has changed.
    pub(crate) fn count_drifts(&mut self) {
        let drifts = self.iter().filter(|count| count.is_drift()).count();
        self.drifts = u32::try_from(drifts).unwrap_or(u32::MAX);
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Count> {
        self.base.iter_mut().chain(&mut self.live)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let names: usize = self
            .iter()
            .map(|c| heap(c.source.len()) + heap(c.id.len()))
            .sum();
        names + heap((self.live.capacity() + self.base.capacity()) * size_of::<Count>())
    }

    /// The latest time that lies in the same span as `at`, for that figure.
    fn span_end(&self, figure: Figure, at: Time) -> Time {
        let unit = if at <= self.minutes_until {
            MINUTE_MS
        } else if at <= self.seconds_until {
            SECOND_MS
        } else {
            return at;
        };
        let end = Time(at.0 - at.0.rem_euclid(unit) + unit - 1);
        let from = self.live.partition_point(|c| c.at < at);
        let mut next = self.live.iter().skip(from).take_while(|c| c.at < end);
        next.find(|c| c.figure == figure).map_or(end, |c| c.at)
    }
}

/// A position's fold, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold<'s> {
    pub(crate) entries: &'s [Entry],
    pub(crate) counts: Option<&'s Counts>,
}

/// What a new count would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judged {
    Applied {
        /// The time it is taken at.
        at: Time,
        /// What the ledger says at that time.
        expected: i128,
        /// The correction of the count that it takes the place of.
        replaced: i64,
        /// The time and correction of the next count, which absorbs what this one changes.
        next: Option<(Time, i64)>,
    },
    Superseded {
        at: Time,
        expected: i128,
    },
    /// Older than what is folded exactly.
    NotApplied {
        /// What the ledger says at the earliest time that it still knows.
        expected: i128,
    },
}

impl<'s> Fold<'s> {
    /// The latest time of what is no longer kept by its time.
    pub(crate) fn base(&self) -> Option<Time> {
        self.entries.first().filter(|e| e.is_base()).map(|e| e.at())
    }

    /// Whether there may be too many times, for whose merging there must be room for [`Counts`].
    pub(crate) fn needs_counts(&self, bounds: Bounds) -> bool {
        self.entries.len() > bounds.times_max
    }

    /// The count that has already seen what moved that figure at that time, and its correction.
    pub(crate) fn absorbed_by(&self, figure: Figure, at: Time) -> Option<&'s Count> {
        let counts = self.counts?;
        if counts.live.last().is_none_or(|c| c.at < at) && counts.base.is_empty() {
            return None;
        }
        if let Some(base) = counts
            .base
            .iter()
            .find(|c| c.figure == figure && c.at >= at)
        {
            return Some(base);
        }
        let from = counts.live.partition_point(|c| c.at < at);
        counts.live.iter().skip(from).find(|c| c.figure == figure)
    }

    /// A figure as of a time, out of the figure now; without the correction of the counts in `less`.
    pub(crate) fn as_of(&self, figure: Figure, now: i64, at: Time) -> i128 {
        let from = self.entries.partition_point(|e| e.at() <= at);
        let moved = self.entries.iter().skip(from).filter(|e| e.is(figure));
        let moved: i128 = moved.map(|e| i128::from(e.delta)).sum();
        let counts = self.counts.map_or(&[][..], |counts| &counts.live);
        let from = counts.partition_point(|c| c.at <= at);
        let counted = counts.iter().skip(from).filter(|c| c.figure == figure);
        let counted: i128 = counted.map(|c| i128::from(c.correction)).sum();
        i128::from(now) - moved - counted
    }

    /// What a count of that figure, which is `now`, would do.
    pub(crate) fn judge(
        &self,
        figure: Figure,
        now: i64,
        counted_at: Time,
        source: &str,
        id: &str,
    ) -> Judged {
        if let Some(base) = self.base().filter(|base| counted_at < *base) {
            return Judged::NotApplied {
                expected: self.as_of(figure, now, base),
            };
        }
        let at = self
            .counts
            .map_or(counted_at, |c| c.span_end(figure, counted_at));
        let same = self
            .counts
            .and_then(|c| c.iter().find(|c| c.figure == figure && c.at == at));
        let replaced = same.map_or(0, |c| c.correction);
        let expected = self.as_of(figure, now, at) - i128::from(replaced);
        if same.is_some_and(|c| c.beats(counted_at, source, id)) {
            return Judged::Superseded { at, expected };
        }
        let live = self.counts.map_or(&[][..], |counts| &counts.live);
        let next = live.iter().find(|c| c.figure == figure && c.at > at);
        Judged::Applied {
            at,
            expected,
            replaced,
            next: next.map(|c| (c.at, c.correction)),
        }
    }
}

/// A position's fold, to change. Only `apply` does.
#[derive(Debug)]
pub(crate) struct FoldMut<'s> {
    pub(crate) entries: &'s mut Vec<Entry>,
    pub(crate) counts: Option<&'s mut Counts>,
}

/// The bounds of a fold; see [`Settings`](crate::Settings).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) horizon_ms: i64,
    pub(crate) times_max: usize,
}

impl FoldMut<'_> {
    fn base(&self) -> Option<Time> {
        self.entries.first().filter(|e| e.is_base()).map(|e| e.at())
    }

    /// A figure moved at that time. What the base holds anyway needs no entry.
    pub(crate) fn moved(&mut self, figure: Figure, at: Time, delta: i64) {
        // What is newer than everything is newer than the base, whose entry lies far from the last one:
        // reading it would cost the hot path a cache line.
        let newest = self.entries.last().is_some_and(|last| at > last.at());
        if !newest && self.base().is_some_and(|base| at <= base) {
            return;
        }
        let at = self.counts.as_ref().map_or(at, |c| c.span_end(figure, at));
        let new = Entry::new(at, tag(figure), delta);
        let last = self.entries.last().map(|e| e.key);
        let i = match last {
            Some(last) if last < new.key => self.entries.len(),
            Some(last) if last == new.key => self.entries.len() - 1,
            None => 0,
            Some(_) => self.entries.partition_point(|e| e.key < new.key),
        };
        if let Some(entry) = self.entries.get_mut(i).filter(|e| e.key == new.key)
            && let Some(sum) = entry.delta.checked_add(delta)
        {
            entry.delta = sum;
            if sum == 0 {
                self.entries.remove(i);
            }
            return;
        }
        grow(self.entries);
        self.entries.insert(i, new);
    }

    /// The correction of the count of that figure at that time changed.
    ///
    /// # Panics
    /// When there is none: the decision does not fit the state.
    pub(crate) fn refold(&mut self, figure: Figure, at: Time, delta: i64) {
        let holds = "a correction is only re-folded where a count holds";
        let counts = self.counts.as_mut().expect(holds);
        let count = counts
            .iter_mut()
            .find(|c| c.figure == figure && c.at == at)
            .expect(holds);
        let changed = count.correction.checked_add(delta);
        count.correction = changed.expect("the decision was checked for overflow");
        counts.count_drifts();
    }

    /// Keeps a count that holds from now on, in place of one at the same time.
    pub(crate) fn keep(&mut self, count: Count) {
        let counts = self
            .counts
            .as_mut()
            .expect("the position was given room for counts");
        let same = counts
            .iter_mut()
            .find(|c| c.figure == count.figure && c.at == count.at);
        if let Some(same) = same {
            *same = count;
        } else {
            let order = |c: &Count| (c.at, c.figure);
            let i = counts.live.partition_point(|c| order(c) < order(&count));
            counts.live.insert(i, count);
        }
        counts.count_drifts();
    }

    /// Keeps within the bounds. Called after every change. What is older than the horizon goes within
    /// [`LOOK_ENTRIES`] more entries; until then it is folded exactly, which is more than promised.
    pub(crate) fn settle(&mut self, bounds: Bounds) {
        // The oldest entry lies far from the last one too, so a long list is looked at now and then. By
        // its length alone: a restored state must do the same.
        let looks = self.entries.len() <= LOOK_ENTRIES
            || self.entries.len().is_multiple_of(LOOK_ENTRIES)
            || self.counts.is_some();
        if !looks {
            return;
        }
        let newest_entry = self.entries.last().map(|e| e.at());
        let newest_count = self
            .counts
            .as_ref()
            .and_then(|c| c.live.last())
            .map(|c| c.at);
        let Some(newest) = newest_entry.max(newest_count) else {
            return;
        };
        let oldest_entry = self.entries.iter().find(|e| !e.is_base()).map(|e| e.at());
        let oldest_count = self
            .counts
            .as_ref()
            .and_then(|c| c.live.first())
            .map(|c| c.at);
        let horizon = newest.plus(-bounds.horizon_ms);
        if oldest_entry.is_some_and(|t| t < horizon) || oldest_count.is_some_and(|t| t < horizon) {
            self.drop_before(horizon);
        }
        let Some(counts) = self.counts.as_ref() else {
            return;
        };
        if counts.live.len() > bounds.times_max {
            // A quarter at once, so that the work is spread over as many counts.
            let cut = counts
                .live
                .get(counts.live.len() / 4)
                .map_or(newest, |c| c.at);
            self.drop_before(cut);
        }
        self.merge(bounds, newest);
    }

    /// Lets everything before that time fall into the base.
    fn drop_before(&mut self, cut: Time) {
        let mut latest = self.base();
        let dropped = self.entries.partition_point(|e| e.at() < cut);
        if let Some(last) = dropped.checked_sub(1).and_then(|i| self.entries.get(i)) {
            latest = latest.max(Some(last.at()));
        }
        if let Some(counts) = self.counts.as_mut() {
            let n = counts.live.partition_point(|c| c.at < cut);
            for count in counts.live.drain(..n) {
                latest = latest.max(Some(count.at));
                counts.base.retain(|c| c.figure != count.figure);
                counts.base.push(count);
            }
            counts.base.sort_unstable_by_key(|c| c.figure);
            counts.count_drifts();
        }
        let Some(latest) = latest else { return };
        match dropped.checked_sub(1) {
            Some(keep) => {
                self.entries.drain(..keep);
                if let Some(first) = self.entries.first_mut() {
                    *first = Entry::base(latest);
                }
            }
            None => {
                grow(self.entries);
                self.entries.insert(0, Entry::base(latest));
            }
        }
    }

    /// Merges times where there are too many.
    fn merge(&mut self, bounds: Bounds, newest: Time) {
        let Some(counts) = self.counts.as_mut() else {
            return;
        };
        let len = self.entries.len();
        if len <= bounds.times_max.max(counts.look_at as usize) {
            return;
        }
        let mut times = 0;
        let mut before = None;
        for entry in self.entries.iter() {
            times += usize::from(before != Some(entry.at()));
            before = Some(entry.at());
        }
        let look_after = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        if times <= bounds.times_max {
            counts.look_at = look_after(len + bounds.times_max - times);
            return;
        }
        let floor = |t: i64, unit: i64| Time(t - t.rem_euclid(unit) - 1);
        counts.seconds_until = counts.seconds_until.max(floor(newest.0, SECOND_MS));
        counts.minutes_until = counts
            .minutes_until
            .max(floor(newest.0 - HOUR_MS, MINUTE_MS));
        let mut merged: Vec<Entry> = Vec::with_capacity(bounds.times_max);
        let mut moved: Vec<Entry> = Vec::with_capacity(len);
        for entry in self.entries.drain(..) {
            let figure = match entry.key & 3 {
                0 => Figure::OnHand,
                1 => Figure::Damaged,
                2 => Figure::QualityControl,
                _ => {
                    moved.push(entry);
                    continue;
                }
            };
            moved.push(Entry::new(
                counts.span_end(figure, entry.at()),
                tag(figure),
                entry.delta,
            ));
        }
        moved.sort_by_key(|e| e.key);
        for entry in moved {
            match merged
                .last_mut()
                .filter(|last| last.key == entry.key && !entry.is_base())
            {
                Some(last) => match last.delta.checked_add(entry.delta) {
                    Some(sum) => last.delta = sum,
                    None => merged.push(entry),
                },
                None => merged.push(entry),
            }
        }
        merged.retain(|e| e.delta != 0 || e.is_base());
        // Not before a quarter more has come: a merge that gains little must not be tried at once.
        counts.look_at = look_after(bounds.times_max.max(merged.len() + merged.len() / 4));
        *self.entries = merged;
    }
}

/// Makes room for one more: exactly while there are few, which is what most positions have.
fn grow(entries: &mut Vec<Entry>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(if entries.len() < 4 {
            1
        } else {
            entries.len() / 2
        });
    }
}
