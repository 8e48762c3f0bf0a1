//! The reservations of a partition: the records, and in which order they fall due and are forgotten.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::command::{Body, Command, RequestLine};
use crate::reservation::{
    Asked, CommitKey, ReservationLine, ReservationRecord, Step, Taken, Told, Waiting, Wish,
};
use crate::state::State;
use crate::touched::Touched;
use crate::values::{Location, ReservationId, Time};

/// All reservations of a partition.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    /// Each in its own place: a table moves what it holds, and records are long.
    records: BTreeMap<Box<str>, Box<Kept>>,
    /// When something of it expires or times out, for those that wait for that.
    due: BTreeSet<(Time, Box<str>)>,
    /// Ended ones, those first that are forgotten first.
    ended: BTreeSet<(Time, u64, Box<str>)>,
    /// Those with a conflict.
    conflicts: BTreeSet<Box<str>>,
    /// Changed since the last drain.
    touched: Touched<Box<str>>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    record: ReservationRecord<'static>,
    /// What it counts for among what changed since the last drain; 0: it is not among them.
    touched: usize,
}

impl Reservations {
    pub(crate) fn get(&self, id: &str) -> Option<&ReservationRecord<'static>> {
        self.records.get(id).map(|kept| &kept.record)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// All of them, in byte order of id.
    pub(crate) fn list(&self) -> impl Iterator<Item = &ReservationRecord<'static>> {
        self.records.values().map(|kept| &kept.record)
    }

    /// At most `limit` ids above `after`, in byte order.
    pub(crate) fn ids(&self, after: Option<&str>, limit: usize) -> Vec<ReservationId<'static>> {
        self.above(after)
            .take(limit)
            .map(|record| record.id.clone())
            .collect()
    }

    fn above(&self, after: Option<&str>) -> impl Iterator<Item = &ReservationRecord<'static>> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.records
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, kept)| &kept.record)
    }

    /// Those with a conflict above `after`, in byte order of id.
    pub(crate) fn conflicts(
        &self,
        after: Option<&str>,
    ) -> impl Iterator<Item = &ReservationRecord<'static>> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.conflicts
            .range::<str, _>((from, Bound::Unbounded))
            .filter_map(|id| self.get(id))
    }

    /// When the next thing expires or times out, if anything will.
    pub(crate) fn due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is due by that time, in order of time, then id.
    pub(crate) fn due_by(&self, at: Time) -> impl Iterator<Item = &ReservationRecord<'static>> {
        self.due
            .iter()
            .take_while(move |(due, _)| *due <= at)
            .filter_map(|(_, id)| self.get(id))
    }

    /// Puts a record in the place of an earlier one.
    pub(crate) fn apply(&mut self, record: &ReservationRecord<'_>) {
        let id = record.id.as_str();
        let kept = Kept {
            record: record.to_static(),
            touched: 0,
        };
        let before = match self.records.get_mut(id) {
            Some(place) => Some(std::mem::replace(&mut **place, kept)),
            None => {
                self.records.insert(id.into(), Box::new(kept));
                None
            }
        };
        let known = before.as_ref().map(|before| &before.record);
        self.reindex(id, known, Some(record));
        self.touch_counted(id, before.as_ref());
    }

    /// Removes a record, as a changelog says.
    pub(crate) fn remove(&mut self, id: &str) {
        self.take_out(id);
    }

    fn take_out(&mut self, id: &str) -> Option<Kept> {
        let kept = *self.records.remove(id)?;
        self.reindex(id, Some(&kept.record), None);
        Some(kept)
    }

    /// Keeps the orders and the figures by what became of a record.
    fn reindex(
        &mut self,
        id: &str,
        before: Option<&ReservationRecord<'_>>,
        after: Option<&ReservationRecord<'_>>,
    ) {
        type Record<'r, 'a> = &'r ReservationRecord<'a>;
        let memory =
            |record: Option<Record<'_, '_>>| record.map_or(0, ReservationRecord::memory_bytes);
        self.bytes = (self.bytes + memory(after)).saturating_sub(memory(before));
        let due = |record: Record<'_, '_>| record.due();
        change(
            &mut self.due,
            before.and_then(due),
            after.and_then(due),
            |at| (at, id.into()),
        );
        let ended = |record: Record<'_, '_>| {
            let at = record.forgotten_from();
            at.map(|at| (at, record.number))
        };
        change(
            &mut self.ended,
            before.and_then(ended),
            after.and_then(ended),
            |(at, number)| (at, number, id.into()),
        );
        let conflict = |record: Record<'_, '_>| record.conflict.is_some().then_some(());
        change(
            &mut self.conflicts,
            before.and_then(conflict),
            after.and_then(conflict),
            |()| id.into(),
        );
    }

    /// Counts a record among what changed, as a snapshot says, or that it is gone.
    pub(crate) fn touch(&mut self, id: &str) {
        self.touch_counted(id, None);
    }

    /// Counts a record, as it is now, or that it is gone, among what changed. What stood in its place
    /// before knows what it counted for.
    fn touch_counted(&mut self, id: &str, before: Option<&Kept>) {
        let kept = self.records.get_mut(id);
        let packed = kept.as_ref().map_or(0, |kept| kept.record.packed_bytes());
        let mut counted = before.map_or(0, |before| before.touched);
        let bytes = id.len() + packed;
        self.touched.count(&mut counted, bytes, || id.into());
        if let Some(kept) = kept {
            kept.touched = counted;
        }
    }

    /// Which changed since the last drain.
    pub(crate) fn touched(&self) -> impl Iterator<Item = &str> {
        self.touched.keys().iter().map(AsRef::as_ref)
    }

    /// About how many bytes the records have that [`Reservations::drain_touched`] gives.
    pub(crate) fn touched_bytes(&self) -> usize {
        self.touched.bytes()
    }

    /// Every reservation changed since the last call; `None`: it is gone.
    pub(crate) fn drain_touched(
        &mut self,
        each: &mut dyn FnMut(&str, Option<&ReservationRecord<'static>>),
    ) {
        for id in self.touched.drain() {
            let kept = self.records.get_mut(&id);
            let record = kept.map(|kept| {
                kept.touched = 0;
                &kept.record
            });
            each(&id, record);
        }
    }

    /// About how much memory they take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// Forgets ended ones as ids are forgotten: by age of log time, and above a number the oldest.
pub(crate) fn forget(state: &mut State) {
    let (age, most) = (
        state.settings().ids_age_ms,
        state.settings().ids_max as usize,
    );
    let now = state.log_time();
    let reservations = &mut state.reservations;
    while let Some((at, _, id)) = reservations.ended.first() {
        if at.plus(age) > now && reservations.ended.len() <= most {
            return;
        }
        let id = id.clone();
        let before = reservations.take_out(&id);
        reservations.touch_counted(&id, before.as_ref());
    }
}

/// Puts one entry of an index in the place of another, where what orders them differs.
fn change<P: PartialEq, K: Ord>(
    index: &mut BTreeSet<K>,
    before: Option<P>,
    after: Option<P>,
    key: impl Fn(P) -> K,
) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        index.remove(&key(before));
    }
    index.extend(after.map(key));
}

impl<'a> ReservationRecord<'a> {
    /// The fact that the decision of that number took in and that has no outcome yet, as it was sent,
    /// and where its record stands; `None` where there is none.
    pub(crate) fn fact(&self, number: u64) -> Option<(Command<'a>, i64)> {
        let running = self.step.as_ref().and_then(|step| step.by.as_ref());
        let waiting = self.queue.iter().filter_map(|waiting| match waiting {
            Waiting::Command(taken) => Some(taken),
            Waiting::Retry { .. } | Waiting::Expiry => None,
        });
        let taken = running
            .into_iter()
            .chain(waiting)
            .find(|taken| taken.number == number)?;
        let Wish::Commit {
            lines,
            channel,
            told,
        } = &taken.wish
        else {
            return None;
        };
        let command = Command {
            source: taken.source.clone(),
            id: taken.id.clone(),
            seq: told.seq,
            occurred_at: taken.occurred_at,
            reason: told.reason.clone(),
            note: told.note.clone(),
            reference: told.reference.clone(),
            data: told.data.clone(),
            body: Body::Commit {
                reservation: self.id.clone(),
                lines: lines.clone(),
                channel: channel.clone(),
            },
        };
        Some((command, told.offset))
    }
}

impl ReservationRecord<'_> {
    /// When something of it expires or times out next.
    pub(crate) fn due(&self) -> Option<Time> {
        let expiry_waits = self.queue.contains(&Waiting::Expiry);
        let running = self.step.as_ref();
        let expires = if expiry_waits { None } else { self.expires_at };
        match (running.and_then(|step| step.deadline), expires) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// From when its age counts: it has ended and nothing is under way.
    fn forgotten_from(&self) -> Option<Time> {
        if self.step.is_some() {
            None
        } else {
            self.ended_at
        }
    }

    /// About how many bytes it takes in a compact format. This crate knows none: a text counts as long
    /// as it is, a number as it mostly is.
    pub(crate) fn packed_bytes(&self) -> usize {
        let name =
            |location: &Option<Location<'_>>| location.as_ref().map_or(0, |l| l.as_str().len());
        let lines = |lines: &[ReservationLine<'_>]| -> usize {
            let one = |l: &ReservationLine<'_>| 16 + l.sku.as_str().len() + name(&l.location);
            lines.iter().map(one).sum()
        };
        let requests = |lines: &[RequestLine<'_>]| -> usize {
            let one = |l: &RequestLine<'_>| 5 + l.sku.as_str().len() + name(&l.location);
            lines.iter().map(one).sum()
        };
        let taken = |taken: &Taken<'_>| {
            let wish = match &taken.wish {
                Wish::Commit { lines, told, .. } => requests(lines) + told.text_bytes(),
                Wish::Reserve { lines, .. } => requests(lines),
                Wish::Confirm { lines } | Wish::Release { lines } => {
                    lines.as_ref().map_or(0, |lines| 3 * lines.len())
                }
                Wish::Extend { .. } => 4,
            };
            50 + taken.source.as_str().len() + taken.id.as_str().len() + wish
        };
        let step = self.step.as_ref().map_or(0, |step| {
            let asks = step.asks.iter().map(|asked| 2 + asked.sku.as_str().len());
            let numbers = step.numbers.iter().map(|n| 10 + n.sku.as_str().len());
            let by = step.by.as_ref().map_or(0, taken);
            20 + by + asks.sum::<usize>() + numbers.sum::<usize>() + lines(&step.lines_before)
        });
        let waiting = |waiting: &Waiting<'_>| match waiting {
            Waiting::Command(command) => taken(command),
            Waiting::Retry { source, id, .. } => 30 + source.as_str().len() + id.as_str().len(),
            Waiting::Expiry => 1,
        };
        let queue: usize = self.queue.iter().map(waiting).sum();
        let names = self.id.as_str().len() + self.source.as_str().len();
        50 + names + lines(&self.lines) + step + queue + 5 * self.decided_by.len()
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lines = |lines: &[ReservationLine<'_>]| -> usize {
            lines
                .iter()
                .map(|line| size_of_val(line) + line.sku.as_str().len() + 16)
                .sum()
        };
        let step = self.step.as_ref().map_or(0, |step| {
            size_of_val(step)
                + lines(&step.lines_before)
                + size_of_val(step.asks.as_slice())
                + size_of_val(step.numbers.as_slice())
        });
        size_of::<Self>()
            + 3 * self.id.as_str().len()
            + lines(&self.lines)
            + step
            + size_of_val(self.queue.as_slice())
            + size_of_val(self.decided_by.as_slice())
            + 64
    }

    /// The same record, owned.
    pub fn to_static(&self) -> ReservationRecord<'static> {
        ReservationRecord {
            id: self.id.to_static(),
            source: self.source.to_static(),
            channel: self
                .channel
                .as_ref()
                .map(|channel| channel.to_string().into()),
            status: self.status,
            lines: self.lines.iter().map(ReservationLine::to_static).collect(),
            created_at: self.created_at,
            granted_at: self.granted_at,
            expires_at: self.expires_at,
            ended_at: self.ended_at,
            commit: self.commit.as_ref().map(CommitKey::to_static),
            released_at: self.released_at,
            conflict: self.conflict.as_ref().map(CommitKey::to_static),
            step: self.step.as_ref().map(Step::to_static),
            queue: self.queue.iter().map(Waiting::to_static).collect(),
            number: self.number,
            decided_by: self.decided_by.clone(),
        }
    }
}

impl ReservationLine<'_> {
    /// The same line, owned.
    pub fn to_static(&self) -> ReservationLine<'static> {
        ReservationLine {
            line: self.line,
            sku: self.sku.to_static(),
            requested: self.requested,
            location: self.location.as_ref().map(Location::to_static),
            decimals: self.decimals,
            asked: self.asked,
            reserved: self.reserved,
            committed: self.committed,
            shipped: self.shipped,
            given_back: self.given_back,
            given_back_by: self.given_back_by,
        }
    }
}

impl CommitKey<'_> {
    /// The same key, owned.
    pub fn to_static(&self) -> CommitKey<'static> {
        CommitKey {
            occurred_at: self.occurred_at,
            source: self.source.to_static(),
            id: self.id.to_static(),
        }
    }
}

impl Taken<'_> {
    fn to_static(&self) -> Taken<'static> {
        Taken {
            number: self.number,
            at: self.at,
            name: self.name,
            content: self.content,
            source: self.source.to_static(),
            id: self.id.to_static(),
            occurred_at: self.occurred_at,
            wish: self.wish.to_static(),
        }
    }
}

impl Wish<'_> {
    fn to_static(&self) -> Wish<'static> {
        let request =
            |lines: &[RequestLine<'_>]| lines.iter().map(RequestLine::to_static).collect();
        let owned = |text: &Option<Cow<'_, str>>| text.as_ref().map(|text| text.to_string().into());
        match self {
            Self::Commit {
                lines,
                channel,
                told,
            } => Wish::Commit {
                lines: request(lines),
                channel: owned(channel),
                told: Box::new(Told {
                    offset: told.offset,
                    seq: told.seq,
                    reason: owned(&told.reason),
                    note: owned(&told.note),
                    reference: owned(&told.reference),
                    data: owned(&told.data),
                }),
            },
            Self::Reserve {
                lines,
                ttl_s,
                channel,
                partial,
            } => Wish::Reserve {
                lines: request(lines),
                ttl_s: *ttl_s,
                channel: owned(channel),
                partial: *partial,
            },
            Self::Confirm { lines } => Wish::Confirm {
                lines: lines.clone(),
            },
            Self::Release { lines } => Wish::Release {
                lines: lines.clone(),
            },
            Self::Extend { ttl_s } => Wish::Extend { ttl_s: *ttl_s },
        }
    }
}

impl RequestLine<'_> {
    /// The same line, owned.
    pub fn to_static(&self) -> RequestLine<'static> {
        RequestLine {
            line: self.line,
            sku: self.sku.to_static(),
            quantity: self.quantity,
            location: self.location.as_ref().map(Location::to_static),
        }
    }
}

impl Waiting<'_> {
    fn to_static(&self) -> Waiting<'static> {
        match self {
            Self::Command(taken) => Waiting::Command(taken.to_static()),
            Self::Retry {
                number,
                name,
                source,
                id,
            } => Waiting::Retry {
                number: *number,
                name: *name,
                source: source.to_static(),
                id: id.to_static(),
            },
            Self::Expiry => Waiting::Expiry,
        }
    }
}

impl Step<'_> {
    fn to_static(&self) -> Step<'static> {
        Step {
            number: self.number,
            by: self.by.as_ref().map(Taken::to_static),
            phase: self.phase,
            deadline: self.deadline,
            asks: self
                .asks
                .iter()
                .map(|asked| Asked {
                    sku: asked.sku.to_static(),
                    heard: asked.heard,
                })
                .collect(),
            status_before: self.status_before,
            lines_before: self
                .lines_before
                .iter()
                .map(ReservationLine::to_static)
                .collect(),
            numbers: self
                .numbers
                .iter()
                .map(crate::LineNumbers::to_static)
                .collect(),
            refusal: self.refusal.as_ref().map(crate::Rejection::to_static),
        }
    }
}
