//! The claim of a request on its outcomes: an inbox that the engine's threads put news into.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The inbox of one submission. Bounded by it: one delivery per pack and one per pending command.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
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
    pub(crate) fn new(packs: usize, occupies: Option<OwnedSemaphorePermit>) -> Self {
        let state = State {
            news: VecDeque::with_capacity(packs),
            open: packs,
            occupies,
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
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

    fn refused(&self, error: &SubmitError) {
        self.put(News::Refused(error.clone()));
    }

    fn failed(&self, why: &str) {
        self.put(News::Failed(why.to_owned()));
    }
}
