//! The claim of a request on its outcomes: an inbox that the engine's threads put news into.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onhand_streams::{Delivery, SubmitError, Ticket};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::wire::problem::Problem;

/// Outcomes that came.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) delivery: Delivery,
    /// Where its pack is an excerpt from another instance: how many bytes further back the outcomes
    /// begin in the pack that the log holds. Else 0.
    pub(crate) cut: usize,
}

/// What an engine thread said.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Told(Told),
    /// Nothing of it is in the log.
    Refused(SubmitError),
    /// Nothing of it is in the log, and nobody takes it.
    Untaken(Problem),
    /// It is not known whether it took effect.
    Failed(String),
}

/// The submissions of one request that come one after another. Once one of them failed, nothing that
/// is not in the log yet may get there: sent again, what failed would come behind it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Arc<AtomicBool>);

impl Series {
    pub(crate) fn break_off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The inbox of one submission. Bounded by it: one delivery per pack and one per pending command.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    series: Series,
}

#[derive(Debug)]
struct State {
    news: VecDeque<News>,
    /// Packs not answered yet.
    open: usize,
    /// What the submission occupies until all its packs are answered.
    occupies: Option<OwnedSemaphorePermit>,
}

impl Inbox {
    pub(crate) fn new(
        packs: usize,
        occupies: Option<OwnedSemaphorePermit>,
        series: &Series,
    ) -> Self {
        let state = State {
            news: VecDeque::with_capacity(packs),
            open: packs,
            occupies,
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            series: series.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next news. One waiter at a time. Cancellation: nothing is lost, the news stays.
    pub(crate) async fn next(&self) -> News {
        loop {
            let arrived = self.arrived.notified();
            if let Some(news) = self.lock().news.pop_front() {
                return news;
            }
            arrived.await;
        }
    }

    pub(crate) fn put(&self, news: News) {
        // Before its room is free: whoever waits for that must see it.
        if !matches!(news, News::Told(_)) {
            self.series.break_off();
        }
        {
            let mut state = self.lock();
            if matches!(news, News::Told(_)) {
                state.open = state.open.saturating_sub(1);
            } else {
                state.open = 0;
            }
            state.news.push_back(news);
            if state.open == 0 {
                state.occupies = None;
            }
        }
        self.arrived.notify_one();
    }
}

impl Ticket for Inbox {
    fn deliver(&self, delivery: Delivery) {
        self.put(News::Told(Told { delivery, cut: 0 }));
    }

    fn is_wanted(&self) -> bool {
        !self.series.is_broken()
    }

    fn refused(&self, error: &SubmitError) {
        self.put(News::Refused(error.clone()));
    }

    fn failed(&self, why: &str) {
        self.put(News::Failed(why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_series_is_broken_before_the_room_of_what_failed_is_free() {
        let room = Arc::new(Semaphore::new(1));
        let series = Series::default();
        let permit = Arc::clone(&room).try_acquire_owned().unwrap();
        let first = Inbox::new(1, Some(permit), &series);
        let second = Inbox::new(1, None, &series);
        assert!(first.is_wanted() && second.is_wanted());
        first.failed("not durable");
        assert_eq!(room.available_permits(), 1);
        assert!(!second.is_wanted());
        assert!(Inbox::new(1, None, &Series::default()).is_wanted());
    }
}
