//! Chunks between the one who reads a stream and the one who answers it, in order.
//!
//! As long as the client reads its answers, chunks wait here only for their decisions. When it does not
//! read, the answering side is blocked, and the reading side goes on: it puts the older chunks aside
//! on disk (see [`super::spool`]) as soon as they are decided, so that memory stays bounded while any
//! number of lines comes in. What was put aside is answered later from the log itself.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::chunk::Order;
use super::spool::{Aside, Spool, SpoolDir};
use super::ticket::Inbox;
use crate::wire::problem::Problem;

/// A chunk that was handed over.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) order: Order,
    pub(crate) inbox: Arc<Inbox>,
    /// How many packs it was handed over in: as many deliveries come first.
    pub(crate) packs: usize,
    pub(crate) may_pend: bool,
    /// About what it holds in memory, its decisions included.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
enum Entry {
    Waiting(Waiting),
    /// The reading side is putting it aside.
    Settling,
    Aside(Aside),
    /// It could not be put aside.
    Failed(Problem),
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Waiting(Waiting),
    Aside(Aside),
    /// Nothing more, and why if that was not the end of the body.
    End(Option<Problem>),
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    /// How many were taken out before the first of `entries`.
    taken: u64,
    bytes: usize,
    spool: Spool,
    end: Option<Option<Problem>>,
    /// The answering side waits for the client to read.
    blocked: bool,
    /// The answering side is gone: nobody listens any more.
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// For the answering side: something came.
    came: Notify,
    /// For the reading side: something was taken, or the answering side is blocked.
    went: Notify,
    unread_bytes: usize,
}

impl Queue {
    pub(crate) fn new(unread_bytes: usize, spool_bytes: u64) -> Self {
        let state = State {
            entries: VecDeque::new(),
            taken: 0,
            bytes: 0,
            spool: Spool::new(spool_bytes),
            end: None,
            blocked: false,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            came: Notify::new(),
            went: Notify::new(),
            unread_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, waiting: Waiting) {
        let mut state = self.lock();
        state.bytes += waiting.bytes;
        state.entries.push_back(Entry::Waiting(waiting));
        drop(state);
        self.came.notify_one();
    }

    /// Nothing more comes. With a problem, what was being put aside is not: nobody knows its outcomes.
    pub(crate) fn end(&self, problem: Option<Problem>) {
        let mut state = self.lock();
        if let Some(problem) = &problem {
            for entry in &mut state.entries {
                if matches!(entry, Entry::Settling) {
                    *entry = Entry::Failed(problem.clone());
                }
            }
        }
        state.end = Some(problem);
        drop(state);
        self.came.notify_one();
    }

    /// The answering side is gone.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.entries.clear();
        drop(state);
        self.went.notify_one();
    }

    /// The answering side begins or ends waiting for the client.
    pub(crate) fn blocked(&self, blocked: bool) {
        self.lock().blocked = blocked;
        if blocked {
            self.went.notify_one();
        }
    }

    /// The next chunk to answer. One caller.
    pub(crate) async fn pop(&self) -> Next {
        loop {
            if let Some(next) = self.try_pop() {
                self.went.notify_one();
                return next;
            }
            self.came.notified().await;
        }
    }

    fn try_pop(&self) -> Option<Next> {
        let mut state = self.lock();
        let next = match state.entries.pop_front() {
            None => return state.end.clone().map(Next::End),
            Some(Entry::Settling) => {
                state.entries.push_front(Entry::Settling);
                return None;
            }
            Some(Entry::Waiting(waiting)) => {
                state.bytes -= waiting.bytes;
                Next::Waiting(waiting)
            }
            Some(Entry::Aside(aside)) => Next::Aside(aside),
            Some(Entry::Failed(problem)) => Next::End(Some(problem)),
        };
        state.taken += 1;
        Some(next)
    }

    /// Waits until another chunk may come: `Ok(None)` at once or later, or a chunk to be settled first.
    /// An error when nobody listens any more.
    pub(crate) async fn room(&self) -> Result<Option<(u64, Waiting)>, Gone> {
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    return Err(Gone);
                }
                if state.bytes <= self.unread_bytes {
                    return Ok(None);
                }
                // Whoever reads its answers is only waited for; and with the spool full, nothing is
                // left but to read slower.
                if state.blocked && state.spool.has_room() {
                    let found = state
                        .entries
                        .iter()
                        .position(|e| matches!(e, Entry::Waiting(_)));
                    if let Some(at) = found
                        && let Some(entry) = state.entries.get_mut(at)
                        && let Entry::Waiting(waiting) = std::mem::replace(entry, Entry::Settling)
                    {
                        state.bytes -= waiting.bytes;
                        return Ok(Some((state.taken + at as u64, waiting)));
                    }
                }
            }
            self.went.notified().await;
        }
    }

    /// Puts aside what [`Queue::room`] gave out under that number.
    pub(crate) fn settle(&self, number: u64, dir: &SpoolDir, settled: Result<Vec<u8>, Problem>) {
        let mut state = self.lock();
        let entry = match settled {
            Err(problem) => Entry::Failed(problem),
            Ok(bytes) => match state.spool.put(dir, &bytes) {
                Ok(aside) => Entry::Aside(aside),
                Err(error) => Entry::Failed(crate::engine::internal(format!(
                    "outcomes could not be put aside: {error}"
                ))),
            },
        };
        let at = number
            .checked_sub(state.taken)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| state.entries.get_mut(at)) {
            *slot = entry;
        }
        drop(state);
        self.came.notify_one();
    }

    /// What was put aside.
    pub(crate) fn get(&self, aside: Aside) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        let bytes = state.spool.get(aside)?;
        let last = !state
            .entries
            .iter()
            .any(|e| matches!(e, Entry::Aside(_) | Entry::Settling));
        if last {
            state.spool.clear()?;
        }
        Ok(bytes)
    }

    /// Whether the answering side is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// Nobody listens any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::ticket::Series;
    use crate::wire::problem::Kind;

    fn waiting() -> Waiting {
        Waiting {
            order: Order::default(),
            inbox: Arc::new(Inbox::new(0, None, &Series::default())),
            packs: 0,
            may_pend: false,
            bytes: 10,
        }
    }

    #[test]
    fn a_stream_that_ends_while_outcomes_are_put_aside_says_so_in_their_place() {
        let queue = Queue::new(15, 1 << 20);
        for _ in 0..3 {
            queue.push(waiting());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            assert!(matches!(queue.pop().await, Next::Waiting(_)));
            queue.blocked(true);
            let (_, aside) = queue.room().await.unwrap().unwrap();
            // The reading side is gone before it has put that aside.
            drop(aside);
            queue.end(Some(Problem::new(
                Kind::STOPPED,
                "the node is shutting down",
            )));
            let next = queue.try_pop();
            assert!(matches!(next, Some(Next::End(Some(_)))), "{next:?}");
        });
    }
}
