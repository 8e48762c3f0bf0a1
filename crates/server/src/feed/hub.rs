//! One thread that tails the decisions of all partitions while somebody follows them, and shares what
//! it read, rendered once.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use onhand_log::{Offset, Progress};
use tokio::sync::watch;

use super::catch_up::Seen;
use super::frame::{Filter, Form};
use crate::decisions::{DecisionError, DecisionLog, Pack, READ_BYTES};
use crate::engine::{Engine, internal};
use crate::wire::outcome::Origin;
use crate::wire::problem::Problem;

/// Between two tries to read while the log cannot be reached.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Changes that were read together.
#[derive(Debug)]
pub(crate) struct Batch {
    changes: Vec<Rendered>,
    /// Every change as a line of NDJSON.
    lines: Bytes,
    events: OnceLock<Bytes>,
    /// Where everybody stands behind it.
    pub(crate) after: Seen,
    size: usize,
}

#[derive(Debug)]
struct Rendered {
    sku: Box<str>,
    location: Box<str>,
    token: Box<[u8]>,
    /// Where its line ends, the line feed included.
    end: usize,
}

impl Batch {
    /// What of it a reader sees; nothing where the filter leaves out everything.
    pub(crate) fn piece(&self, filter: &Filter, form: Form) -> Bytes {
        if filter.is_empty() {
            return match form {
                Form::Ndjson => self.lines.clone(),
                Form::Sse => self
                    .events
                    .get_or_init(|| self.render(filter, form))
                    .clone(),
            };
        }
        self.render(filter, form)
    }

    fn render(&self, filter: &Filter, form: Form) -> Bytes {
        let mut out = Vec::new();
        let mut begin = 0;
        for change in &self.changes {
            let line = self
                .lines
                .get(begin..change.end.saturating_sub(1))
                .unwrap_or_default();
            begin = change.end;
            if filter.takes(&change.sku, &change.location) {
                form.change(&mut out, Some(&change.token), line);
            }
        }
        Bytes::from(out)
    }
}

/// What the hub's thread and its readers share.
struct State {
    ring: VecDeque<Arc<Batch>>,
    /// The number of the first batch in the ring; batches are numbered from 0.
    first: u64,
    bytes: usize,
    readers: usize,
    /// Where the tail stands; `None` while nobody reads.
    tail: Option<Tail>,
    /// Counts how often the last reader left: a tail of an earlier time is of no use.
    era: u64,
    /// The log moved since the thread last looked.
    moved: bool,
    stop: bool,
    trouble: Option<Problem>,
}

#[derive(Clone)]
struct Tail {
    era: u64,
    seen: Seen,
    offsets: Vec<Option<Offset>>,
}

/// See the module.
pub(crate) struct Hub {
    state: Mutex<State>,
    wake: Condvar,
    /// How many batches there have been.
    count: watch::Sender<u64>,
    decisions: Arc<DecisionLog>,
    ring_bytes: usize,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// A reader's place at the hub. It leaves when dropped.
#[derive(Debug)]
pub(crate) struct Follow {
    hub: Arc<Hub>,
    next: u64,
    count: watch::Receiver<u64>,
}

/// What a follower gets.
#[derive(Debug)]
pub(crate) enum Followed {
    Batch(Arc<Batch>),
    /// It is further behind than the ring is long: it must catch up by itself.
    Behind,
    Trouble(Problem),
}

impl Hub {
    fn new(decisions: Arc<DecisionLog>, ring_bytes: usize) -> Self {
        let state = State {
            ring: VecDeque::new(),
            first: 0,
            bytes: 0,
            readers: 0,
            tail: None,
            era: 0,
            moved: false,
            stop: false,
            trouble: None,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            count: watch::Sender::new(0),
            decisions,
            ring_bytes,
        }
    }

    /// Starts the thread.
    pub(crate) fn start(engine: &Engine, ring_bytes: usize) -> std::io::Result<Arc<Self>> {
        let hub = Arc::new(Self::new(Arc::clone(&engine.decisions), ring_bytes));
        let listening = Arc::clone(&hub);
        engine.log.listen(Box::new(move |progress| {
            if progress != Progress::Appended {
                let mut state = listening.lock();
                state.moved = true;
                if state.readers > 0 {
                    listening.wake.notify_one();
                }
            }
        }));
        let running = Arc::clone(&hub);
        std::thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || running.run())?;
        Ok(hub)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn readers(&self) -> usize {
        self.lock().readers
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// Joins those who follow. Says where they stand: what is before that, the reader reads himself.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        engine: &Engine,
    ) -> Result<(Seen, Follow), Problem> {
        if let Some(joined) = self.join(None) {
            return Ok(joined);
        }
        let newest = engine.newest().await?;
        let numbers: Vec<u64> = newest.numbers.iter().map(|(_, number)| *number).collect();
        let tail = Tail {
            era: 0,
            offsets: vec![None; numbers.len()],
            seen: Seen {
                epoch: newest.epoch,
                numbers,
                partly: None,
            },
        };
        self.join(Some(tail))
            .ok_or_else(|| internal("the feed could not be joined"))
    }

    fn join(self: &Arc<Self>, from: Option<Tail>) -> Option<(Seen, Follow)> {
        let mut state = self.lock();
        if state.tail.is_none() {
            let era = state.era;
            state.tail = from.map(|tail| Tail { era, ..tail });
            state.moved = true;
        }
        let seen = state.tail.as_ref()?.seen.clone();
        state.readers += 1;
        let next = state.first + state.ring.len() as u64;
        drop(state);
        self.wake.notify_one();
        let follow = Follow {
            hub: Arc::clone(self),
            next,
            count: self.count.subscribe(),
        };
        Some((seen, follow))
    }

    fn run(&self) {
        loop {
            let mut tail = {
                let mut state = self.lock();
                loop {
                    if state.stop {
                        return;
                    }
                    if state.readers > 0 && state.moved && state.trouble.is_none() {
                        break;
                    }
                    state = self
                        .wake
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                state.moved = false;
                match &state.tail {
                    Some(tail) => tail.clone(),
                    None => continue,
                }
            };
            if !self.read_on(&mut tail) {
                std::thread::sleep(READ_PAUSE);
            }
        }
    }

    /// Reads whatever is new. Says false where that is to be tried again a little later.
    fn read_on(&self, tail: &mut Tail) -> bool {
        match self.read(tail) {
            Ok(()) => true,
            // What was shared stays, and the tail stands behind it.
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "feeds stand still, reading again soon");
                self.lock().moved = true;
                false
            }
            Err(error) => {
                self.lock().trouble = Some(internal(error));
                self.count.send_modify(|count| *count += 1);
                true
            }
        }
    }

    /// Reads whatever is new, and shares it piece by piece.
    fn read(&self, tail: &mut Tail) -> Result<(), DecisionError> {
        let partitions = u16::try_from(tail.seen.numbers.len()).unwrap_or(u16::MAX);
        for partition in 0..partitions {
            let known = tail.offsets.get(usize::from(partition)).copied().flatten();
            let mut from = match known {
                Some(offset) => offset,
                None => match self
                    .decisions
                    .locate(partition, tail.seen.number(partition) + 1)?
                {
                    Some(pack) => pack.offset,
                    None => self.decisions.bounds(partition)?.0,
                },
            };
            loop {
                if from >= self.decisions.bounds(partition)?.1 {
                    break;
                }
                let (packs, next) = self.decisions.packs(partition, from, READ_BYTES)?;
                if packs.is_empty() && next <= from {
                    break;
                }
                from = next;
                if let Some(offset) = tail.offsets.get_mut(usize::from(partition)) {
                    *offset = Some(next);
                }
                for pack in &packs {
                    let batch = render(&mut tail.seen, pack)?;
                    if !self.share(batch, tail) {
                        return Ok(());
                    }
                }
            }
        }
        // Places learnt without a batch are kept too.
        let mut state = self.lock();
        if state.tail.is_some() && state.era == tail.era {
            state.tail = Some(tail.clone());
        }
        Ok(())
    }

    /// Says whether anybody is left who follows this tail.
    fn share(&self, batch: Batch, tail: &Tail) -> bool {
        let mut state = self.lock();
        if state.readers == 0 || state.era != tail.era {
            return false;
        }
        state.tail = Some(tail.clone());
        state.bytes += batch.size;
        state.ring.push_back(Arc::new(batch));
        while state.bytes > self.ring_bytes && state.ring.len() > 1 {
            if let Some(oldest) = state.ring.pop_front() {
                state.bytes -= oldest.size;
                state.first += 1;
            }
        }
        drop(state);
        self.count.send_modify(|count| *count += 1);
        true
    }

    fn leave(&self) {
        let mut state = self.lock();
        state.readers -= 1;
        if state.readers == 0 {
            // Nobody follows: the tail is forgotten, and the next reader begins at what is newest then.
            state.first += state.ring.len() as u64;
            state.ring.clear();
            state.bytes = 0;
            state.tail = None;
            state.trouble = None;
            state.era += 1;
        }
    }
}

/// Renders every change of a pack that was not seen.
fn render(seen: &mut Seen, pack: &Pack) -> Result<Batch, DecisionError> {
    let partition = pack.partition;
    let origin = Origin {
        epoch: seen.epoch,
        partition,
    };
    let mut lines = Vec::new();
    let mut rendered = Vec::new();
    let _ = pack.each(seen.number(partition), |decision| {
        for (index, change) in seen.unseen(decision, origin) {
            let mut token = Vec::new();
            seen.token_at(&mut token, partition, decision.number, index);
            change.write(&mut lines, Some(&token));
            lines.push(b'\n');
            rendered.push(Rendered {
                sku: change.sku.into(),
                location: change.location.into(),
                token: token.into(),
                end: lines.len(),
            });
        }
        seen.saw(partition, decision.number);
        ControlFlow::Continue(())
    })?;
    // What a batch holds besides its lines: names and tokens, about as much again.
    let size = lines.len() * 2 + 256;
    Ok(Batch {
        changes: rendered,
        lines: Bytes::from(lines),
        events: OnceLock::new(),
        after: seen.clone(),
        size,
    })
}

impl Follow {
    /// The next batch. Cancellation: nothing is lost, the place stays.
    pub(crate) async fn next(&mut self) -> Followed {
        loop {
            {
                // Marked before looking, so that what comes after the look wakes again.
                self.count.borrow_and_update();
                let state = self.hub.lock();
                if let Some(problem) = &state.trouble {
                    return Followed::Trouble(problem.clone());
                }
                let Some(at) = self.next.checked_sub(state.first) else {
                    return Followed::Behind;
                };
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                if let Some(batch) = state.ring.get(at) {
                    self.next += 1;
                    return Followed::Batch(Arc::clone(batch));
                }
            }
            if self.count.changed().await.is_err() {
                return Followed::Trouble(internal("the feed ended"));
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.hub.leave();
    }
}

#[cfg(test)]
mod tests {
    use onhand_log::memory::MemoryLog;
    use onhand_log::{Log as _, TopicSpec, View};

    use super::*;

    /// A log of one empty partition, feeds from it, and where they begin.
    fn feeds() -> (Arc<MemoryLog>, Arc<Hub>, Tail) {
        let log = Arc::new(MemoryLog::new());
        let spec = TopicSpec {
            name: "d".to_owned(),
            partitions: 1,
            compacted: false,
        };
        let topic = log.create_topic(&spec).unwrap();
        let shared: Arc<dyn onhand_log::Log> = Arc::<MemoryLog>::clone(&log);
        let decisions = DecisionLog::new(shared, topic, 1, View::Durable);
        let tail = Tail {
            era: 0,
            offsets: vec![None],
            seen: Seen {
                epoch: 1,
                numbers: vec![0],
                partly: None,
            },
        };
        (log, Arc::new(Hub::new(Arc::new(decisions), 1 << 20)), tail)
    }

    #[test]
    fn what_cannot_be_read_for_a_moment_is_read_again() {
        let (log, hub, mut tail) = feeds();
        let (_, _follow) = hub.join(Some(tail.clone())).unwrap();
        hub.lock().moved = false;
        log.set_away(true);
        assert!(!hub.read_on(&mut tail));
        let state = hub.lock();
        assert!(state.trouble.is_none() && state.tail.is_some());
        assert!(state.moved, "it is read again");
        drop(state);
        log.set_away(false);
        assert!(hub.read_on(&mut tail));
        assert!(hub.lock().trouble.is_none());
    }

    #[test]
    fn trouble_ends_with_those_who_were_told() {
        let (_, hub, tail) = feeds();
        let (_, follow) = hub.join(Some(tail)).unwrap();
        hub.lock().trouble = Some(internal("what is stored is damaged"));
        drop(follow);
        assert!(hub.lock().trouble.is_none());
    }
}
