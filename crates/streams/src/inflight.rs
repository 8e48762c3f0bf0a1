//! The appends whose ending is not known yet, and what waits for them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onhand_log::Ending;

/// Called with whether everything before it became durable.
type Waiting = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct Inner {
    begun: u64,
    ended: u64,
    /// The first ending that was not `Durable`, until the worker has reopened its tasks; `Fenced`, if
    /// that was among them: it says that there is nothing to reopen.
    trouble: Option<Ending>,
    waiting: VecDeque<(u64, Waiting)>,
}

/// Counts appends in and out. Clones share the count.
///
/// An engine may end new work behind what follows from older work. So when as many ended as had begun at
/// some moment, new work of that time may be open still, and later decisions ended in its place; all
/// decisions of that time have ended, as those end in order, and nothing was decided on what was not read.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<Inner>>);

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("InFlight")
            .field("begun", &inner.begun)
            .field("ended", &inner.ended)
            .finish()
    }
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves counters that are still true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more append is on its way. Returns what to call with its ending.
    pub(crate) fn begin(&self, then: impl FnOnce(bool) + Send + 'static) -> onhand_log::OnEnd {
        self.lock().begun += 1;
        let this = self.clone();
        Box::new(move |ending| this.end(ending, then))
    }

    /// An append that was begun was refused at once.
    pub(crate) fn refused(&self) {
        self.lock().begun -= 1;
    }

    fn end(&self, ending: Ending, then: impl FnOnce(bool)) {
        then(ending == Ending::Durable);
        let mut ready = Vec::new();
        let good = {
            let mut inner = self.lock();
            inner.ended += 1;
            let first = ending != Ending::Durable && inner.trouble.is_none();
            if first || ending == Ending::Fenced {
                inner.trouble = Some(ending);
            }
            while inner
                .waiting
                .front()
                .is_some_and(|(at, _)| *at <= inner.ended)
            {
                ready.extend(inner.waiting.pop_front());
            }
            inner.trouble.is_none()
        };
        for (_, call) in ready {
            call(good);
        }
    }

    /// Calls `then` once every append begun so far has ended: at once when none is on its way.
    pub(crate) fn after(&self, then: Waiting) {
        let good = {
            let mut inner = self.lock();
            if inner.begun > inner.ended {
                let at = inner.begun;
                inner.waiting.push_back((at, then));
                return;
            }
            inner.trouble.is_none()
        };
        then(good);
    }

    pub(crate) fn trouble(&self) -> Option<Ending> {
        self.lock().trouble
    }

    /// Something else calls for the tasks to be reopened, as after an append that did not end well.
    pub(crate) fn spoil(&self) {
        self.lock().trouble.get_or_insert(Ending::Aborted);
    }

    pub(crate) fn clear_trouble(&self) {
        self.lock().trouble = None;
    }

    pub(crate) fn count(&self) -> u64 {
        let inner = self.lock();
        inner.begun - inner.ended
    }
}
