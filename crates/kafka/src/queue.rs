//! What waits to be written, and under which tokens: the part of the writer that callers meet.

mod line;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Thread;
use std::time::{Duration, Instant};

use onhand_log::{Append, AppendError, Ending, Offset, Purpose, Token, TopicPartition};

use self::line::Line;
pub(crate) use self::line::Queued;

#[derive(Default)]
struct State {
    /// New work. It goes into a young transaction.
    intake: Line,
    /// What follows from what is in the log. It goes into any.
    following: Line,
    /// Bytes of everything whose ending was not told.
    bytes: usize,
    accepted: u64,
    /// Numbers of the appends whose ending was not told.
    unended: BTreeSet<u64>,
    /// Appends up to this number shall be durable soon.
    wanted: u64,
    /// How often that was asked for.
    flushes: u64,
    /// The writer, which sleeps when there is nothing for it to do.
    writer: Option<Thread>,
    /// Owners held by this process: generation and positions.
    owners: HashMap<Arc<str>, Held>,
    stopped: Option<String>,
}

/// That owner's name is not held by this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotHeld;

#[derive(Default)]
struct Held {
    generation: u64,
    /// An append under this token did not end well: what comes behind it rests on what is not there.
    spoiled: bool,
    /// It is being given up: nothing more is taken.
    closing: bool,
    durable: HashMap<TopicPartition, Offset>,
    /// Of the appends that wait as intake: what follows under the same token goes behind them.
    intake: usize,
    /// Positions of appends that have not ended, oldest first.
    pending: VecDeque<(u64, TopicPartition, Offset)>,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Something ended: for callers that wait for room or for an ending.
    drained: Condvar,
}

/// The bounds of the queue.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) append_bytes: usize,
    pub(crate) pending_bytes: usize,
}

/// What the writer asks of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// The number of the append accepted last.
    pub(crate) accepted: u64,
    /// Appends up to this number shall be durable soon.
    pub(crate) wanted: u64,
    pub(crate) flushes: u64,
    /// Nothing waits to be taken.
    pub(crate) is_empty: bool,
    /// How long what waits may wait on for what is still coming.
    pub(crate) gathers: Duration,
    /// The same of what an open transaction takes; `None` when nothing of that waits.
    pub(crate) following: Option<Duration>,
    pub(crate) is_stopped: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the queue panics")
    }

    /// Takes an append in, waiting for room.
    pub(crate) fn push(
        &self,
        token: &Token,
        append: Append,
        limits: Limits,
        is_partition: impl Fn(TopicPartition) -> bool,
    ) -> Result<(), AppendError> {
        let bytes = append
            .batches
            .iter()
            .map(|(_, batch)| batch.bytes().len())
            .sum();
        let mut state = self.lock();
        loop {
            state.check_running()?;
            state.check_token(token)?;
            // An append larger than all room goes when nothing else is there.
            if state.bytes == 0 || state.bytes + bytes <= limits.pending_bytes {
                break;
            }
            state.want();
            state = self
                .drained
                .wait(state)
                .expect("no holder of the queue panics");
        }
        let consumed = append.consumed.iter().map(|consumed| consumed.at);
        for at in append.batches.iter().map(|(at, _)| *at).chain(consumed) {
            if !is_partition(at) {
                return Err(AppendError::UnknownTopic(at));
            }
        }
        if bytes > limits.append_bytes {
            let limit = limits.append_bytes;
            return Err(AppendError::TooLarge { bytes, limit });
        }
        state.accepted += 1;
        state.bytes += bytes;
        let (number, flushes) = (state.accepted, state.flushes);
        let mut is_intake = append.purpose == Purpose::Intake;
        if let Some(held) = state.owners.get_mut(&token.owner) {
            is_intake |= held.intake > 0;
            held.intake += usize::from(is_intake);
            let positions = append.consumed.iter();
            held.pending
                .extend(positions.map(|consumed| (number, consumed.at, consumed.next)));
        }
        state.unended.insert(number);
        let line = if is_intake {
            &mut state.intake
        } else {
            &mut state.following
        };
        let is_due = line.push(Queued {
            number,
            owner: Arc::clone(&token.owner),
            generation: token.generation,
            batches: append.batches,
            consumed: append.consumed,
            on_end: append.on_end,
            bytes,
            since: Instant::now(),
            flushes,
        });
        if is_due {
            state.wake();
        }
        Ok(())
    }

    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        if !state.unended.is_empty() {
            state.want();
        }
    }

    /// The calling thread writes: it is unparked when there is something to do.
    pub(crate) fn attach(&self) {
        self.lock().writer = Some(std::thread::current());
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.lock();
        Standing {
            accepted: state.accepted,
            wanted: state.wanted,
            flushes: state.flushes,
            is_empty: state.is_empty(),
            gathers: state.gathers(),
            following: state
                .following
                .first()
                .map(|_| state.following.gathers(state.flushes)),
            is_stopped: state.stopped.is_some(),
        }
    }

    /// All that waits, in order, up to so many bytes, and whether something is left that does not fit.
    /// `any`: the first goes whatever its size. Nothing while more is still coming.
    pub(crate) fn take(&self, room: usize, any: bool) -> (Vec<Queued>, bool) {
        let mut state = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        if !state.gathers().is_zero() {
            return (taken, false);
        }
        let fits = |taken: &[Queued], bytes| any && taken.is_empty() || bytes <= room;
        while let Some(next) = state.pop_first(|next| fits(&taken, bytes + next)) {
            bytes += next.bytes;
            taken.push(next);
        }
        (taken, !state.is_empty())
    }

    /// What goes into the open transaction, in order, up to so many bytes, and whether something is left
    /// that does not fit.
    pub(crate) fn take_following(&self, room: usize) -> (Vec<Queued>, bool) {
        let mut state = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        if !state.following.gathers(state.flushes).is_zero() {
            return (taken, false);
        }
        while let Some(next) = state.following.waiting.front() {
            bytes += next.bytes;
            if bytes > room {
                break;
            }
            taken.extend(state.following.pop());
        }
        let left = !state.following.waiting.is_empty();
        (taken, left)
    }

    /// Whether an append of that owner and generation may still be written.
    pub(crate) fn holds(&self, owner: &str, generation: u64) -> bool {
        let state = self.lock();
        state
            .owners
            .get(owner)
            .is_some_and(|held| held.generation == generation)
    }

    /// Whether something was lost under that token, so that nothing behind it may be written.
    pub(crate) fn is_spoiled(&self, owner: &str, generation: u64) -> bool {
        let state = self.lock();
        let held = state.owners.get(owner);
        held.is_some_and(|held| held.generation == generation && held.spoiled)
    }

    /// Nothing more is written under any token that is held now: what was shown of a transaction is not
    /// there, and whoever read it may append what rests on it.
    pub(crate) fn spoil_all(&self) {
        let mut state = self.lock();
        state
            .owners
            .values_mut()
            .for_each(|held| held.spoiled = true);
    }

    /// Tells the endings, in order, and makes room. Positions of what is durable stay.
    pub(crate) fn end(&self, group: Vec<(Queued, Ending)>) {
        let mut bytes = 0;
        let mut numbers = Vec::with_capacity(group.len());
        {
            let mut state = self.lock();
            for (queued, ending) in &group {
                bytes += queued.bytes;
                numbers.push(queued.number);
                let Some(held) = state.owners.get_mut(&queued.owner) else {
                    continue;
                };
                while held
                    .pending
                    .front()
                    .is_some_and(|(n, ..)| *n <= queued.number)
                {
                    held.pending.pop_front();
                }
                if *ending == Ending::Durable && held.generation == queued.generation {
                    for consumed in &queued.consumed {
                        held.durable.insert(consumed.at, consumed.next);
                    }
                }
                if *ending != Ending::Durable && held.generation == queued.generation {
                    held.spoiled = true;
                }
            }
        }
        for (queued, ending) in group {
            if let Some(on_end) = queued.on_end {
                on_end(ending);
            }
        }
        let mut state = self.lock();
        state.bytes -= bytes;
        for number in &numbers {
            state.unended.remove(number);
        }
        drop(state);
        self.drained.notify_all();
    }

    /// Drops the owner's token and waits until everything appended under it has ended.
    pub(crate) fn release(&self, owner: &str, patience: Duration) -> Result<(), AppendError> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        state.check_running()?;
        state.owners.remove(owner);
        let last = state.accepted;
        state.want();
        while state.ended() < last {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("what was appended before has not ended within {patience:?}");
                return Err(AppendError::Unreachable(why));
            }
            let waited = self.drained.wait_timeout(state, left);
            (state, _) = waited.expect("no holder of the queue panics");
        }
        state.check_running()
    }

    /// Takes nothing more under this token, waits until what was taken has ended, and lets the name
    /// go. Whether all of it became durable; false also when the token is not the newest.
    pub(crate) fn finish(
        &self,
        owner: &str,
        generation: u64,
        patience: Duration,
    ) -> Result<bool, AppendError> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        let newest = state.owners.get_mut(owner);
        let Some(held) = newest.filter(|held| held.generation == generation) else {
            return Ok(false);
        };
        held.closing = true;
        let last = state.accepted;
        state.want();
        while state.ended() < last && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let waited = self.drained.wait_timeout(state, left);
            (state, _) = waited.expect("no holder of the queue panics");
        }
        let ended = state.ended() >= last;
        let held = state.owners.remove(owner);
        if !ended {
            let why = format!("what was appended before has not ended within {patience:?}");
            return Err(AppendError::Unreachable(why));
        }
        Ok(held.is_some_and(|held| held.generation == generation && !held.spoiled))
    }

    /// Appends under this token are taken from here on.
    pub(crate) fn hold(&self, token: &Token, durable: HashMap<TopicPartition, Offset>) {
        let held = Held {
            generation: token.generation,
            spoiled: false,
            closing: false,
            durable,
            intake: 0,
            pending: VecDeque::new(),
        };
        self.lock().owners.insert(Arc::clone(&token.owner), held);
    }

    /// The owners held, with their generations.
    pub(crate) fn held(&self) -> Vec<(Arc<str>, u64)> {
        let state = self.lock();
        let mut held: Vec<_> = state
            .owners
            .iter()
            .map(|(owner, held)| (Arc::clone(owner), held.generation))
            .collect();
        held.sort();
        held
    }

    /// The owner's token is worth nothing any more, if it is still this one.
    pub(crate) fn lose(&self, owner: &str, generation: u64) {
        let mut state = self.lock();
        if state
            .owners
            .get(owner)
            .is_some_and(|held| held.generation == generation)
        {
            state.owners.remove(owner);
        }
    }

    /// The newest position of an owner held here; `Err` when it is not held.
    pub(crate) fn consumed(
        &self,
        owner: &str,
        at: TopicPartition,
    ) -> Result<Option<Offset>, NotHeld> {
        let state = self.lock();
        let held = state.owners.get(owner).ok_or(NotHeld)?;
        let newest = held.pending.iter().rev().find(|(_, place, _)| *place == at);
        Ok(newest
            .map(|(.., next)| *next)
            .or_else(|| held.durable.get(&at).copied()))
    }

    /// Nothing more is accepted. What waits is still written. False when that was so before.
    pub(crate) fn stop(&self, why: &str) -> bool {
        let mut state = self.lock();
        let first = state.stopped.is_none();
        if first {
            state.stopped = Some(why.to_owned());
        }
        state.wake();
        drop(state);
        self.drained.notify_all();
        first
    }

    pub(crate) fn check_running(&self) -> Result<(), AppendError> {
        self.lock().check_running()
    }

    /// Appends accepted, and those whose ending is not known.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.accepted, state.unended.len() as u64)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.intake.waiting.is_empty() && self.following.waiting.is_empty()
    }

    /// All appends up to this number have ended.
    fn ended(&self) -> u64 {
        let first = self.unended.first();
        first.map_or(self.accepted, |first| first - 1)
    }

    /// Takes out what was accepted first, if it fits by its bytes.
    fn pop_first(&mut self, fits: impl FnOnce(usize) -> bool) -> Option<Queued> {
        let is_intake = match (self.intake.first(), self.following.first()) {
            (Some(intake), Some(following)) => intake < following,
            (intake, _) => intake.is_some(),
        };
        let line = if is_intake {
            &mut self.intake
        } else {
            &mut self.following
        };
        if !fits(line.waiting.front()?.bytes) {
            return None;
        }
        let queued = line.pop()?;
        let held = self.owners.get_mut(&queued.owner);
        if let Some(held) = held.filter(|held| held.generation == queued.generation) {
            held.intake -= usize::from(is_intake);
        }
        Some(queued)
    }

    /// How long what waits may wait on for what is still coming.
    fn gathers(&self) -> Duration {
        let lines = [&self.intake, &self.following];
        let waiting = lines.into_iter().filter(|line| line.first().is_some());
        let gathers = waiting.map(|line| line.gathers(self.flushes)).min();
        gathers.unwrap_or_default()
    }

    fn want(&mut self) {
        self.wanted = self.accepted;
        self.flushes += 1;
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
    }

    fn check_running(&self) -> Result<(), AppendError> {
        match &self.stopped {
            Some(why) => Err(AppendError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    fn check_token(&self, token: &Token) -> Result<(), AppendError> {
        let held = self.owners.get(&token.owner);
        if held.is_some_and(|held| held.generation == token.generation && !held.closing) {
            return Ok(());
        }
        let owner = Arc::clone(&token.owner);
        Err(AppendError::Fenced { owner })
    }
}

#[cfg(test)]
mod tests;
