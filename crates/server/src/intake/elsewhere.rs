//! The packs of one stream on an instance that shares its log: each goes to whoever has its partition,
//! and those of one partition in the order of their lines.
//!
//! A pack whose partition is open here is submitted at once, unless one before it waits or is away. Every
//! other one waits in its partition's queue, and a task sends what waits to the owners, of each partition
//! one request at a time. What certainly was not taken goes back into its place in the queue and is sent
//! again, until a deadline. What nobody knows the end of ends the stream, and what waits then is not sent:
//! sent again, all of it is harmless.
//!
//! Bounded by the stream: what waits here counts as on its way to a decision.

mod sending;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onhand_streams::{Delivery, SubmitError, Ticket};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::stream::{BUSY_PAUSE, INBOX_FILL_MAX};
use super::ticket::{Inbox, News, Series};
use crate::app::App;
use crate::engine::of_submit;
use crate::peers::forward;
use crate::peers::packs;
use crate::wire::problem::Problem;

/// Between two looks at who owns what, while something waits for that.
const PAUSE: Duration = Duration::from_millis(50);

/// A pack on its way.
#[derive(Debug)]
struct Part {
    /// Its place among the packs of its partition.
    place: u64,
    partition: u16,
    pack: Vec<u8>,
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Queue {
    /// By place.
    waiting: BTreeMap<u64, Arc<Part>>,
    /// Packs that are with an owner and not answered.
    under_way: usize,
    /// Packs that may still come behind what is submitted here now: they are with another instance, or a
    /// task is about to submit them here.
    away: usize,
    /// Since when nobody takes what waits.
    since: Option<Instant>,
}

impl Queue {
    /// Whether a pack that is submitted here now comes behind all before it.
    fn is_clear(&self) -> bool {
        self.waiting.is_empty() && self.away == 0
    }
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<u16, Queue>,
    next: u64,
    /// A task looks after what waits.
    running: bool,
    /// The stream has ended: nobody waits for answers.
    closed: bool,
}

/// See the module.
pub(crate) struct Elsewhere {
    app: Arc<App>,
    /// All packs of the stream.
    pub(crate) series: Series,
    state: Mutex<State>,
    stirred: Notify,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").finish_non_exhaustive()
    }
}

/// The claim of a pack that was submitted here.
struct Here {
    elsewhere: Arc<Elsewhere>,
    part: Arc<Part>,
    answered: AtomicBool,
}

impl Here {
    fn first(&self) -> bool {
        !self.answered.swap(true, Ordering::SeqCst)
    }
}

impl Ticket for Here {
    fn deliver(&self, delivery: Delivery) {
        self.part.inbox.deliver(delivery);
        if self.first() {
            self.elsewhere.answered(self.part.partition);
        }
    }

    fn is_wanted(&self) -> bool {
        self.part.inbox.is_wanted()
    }

    fn refused(&self, error: &SubmitError) {
        if self.first() {
            match error {
                SubmitError::Moved(_) => self.elsewhere.not_taken(&self.part),
                error => {
                    self.part.inbox.refused(error);
                    self.elsewhere.answered(self.part.partition);
                }
            }
        }
    }

    fn failed(&self, why: &str) {
        self.part.inbox.failed(why);
        if self.first() {
            self.elsewhere.answered(self.part.partition);
        }
    }
}

impl Elsewhere {
    pub(crate) fn new(app: &Arc<App>) -> Arc<Self> {
        Arc::new(Self {
            app: Arc::clone(app),
            series: Series::default(),
            state: Mutex::default(),
            stirred: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over the packs of a chunk, behind those of the chunks before it. After an error nothing more
    /// of the stream is handed over.
    pub(crate) fn submit(
        self: &Arc<Self>,
        packs: Vec<(u16, Vec<u8>)>,
        inbox: &Arc<Inbox>,
    ) -> Result<(), Problem> {
        // While this is held no partition opens: what was refused because its partition had moved is
        // in its queue before a later pack could be taken.
        let _closed_stay_closed = self.app.engine.opening.read();
        for (partition, pack) in packs {
            let (part, at_once) = {
                let mut state = self.lock();
                if state.closed || self.series.is_broken() {
                    return Err(broken_off());
                }
                let place = state.next;
                state.next += 1;
                let part = Arc::new(Part {
                    place,
                    partition,
                    pack,
                    inbox: Arc::clone(inbox),
                });
                let queue = state.queues.entry(partition).or_default();
                let at_once = queue.is_clear() && self.app.engine.is_open(partition);
                if at_once {
                    queue.under_way += 1;
                } else {
                    queue.waiting.insert(place, Arc::clone(&part));
                }
                (part, at_once)
            };
            if at_once && let Err(problem) = self.submit_here(&part) {
                self.series.break_off();
                self.stirred.notify_one();
                return Err(problem);
            }
        }
        self.look_after();
        Ok(())
    }

    /// Submits a pack that counts as under way.
    fn submit_here(self: &Arc<Self>, part: &Arc<Part>) -> Result<(), Problem> {
        let ticket: Arc<dyn Ticket> = Arc::new(Here {
            elsewhere: Arc::clone(self),
            part: Arc::clone(part),
            answered: AtomicBool::new(false),
        });
        let packs = vec![(part.partition, part.pack.clone())];
        match self.app.engine.submit(packs, &ticket) {
            Ok(()) => Ok(()),
            Err(SubmitError::Moved(_)) => {
                self.not_taken(part);
                Ok(())
            }
            Err(error) => Err(of_submit(&error)),
        }
    }

    /// A pack that was under way has its first answer.
    fn answered(&self, partition: u16) {
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(&partition) else {
            return;
        };
        queue.under_way = queue.under_way.saturating_sub(1);
        queue.since = None;
        let waits = !queue.waiting.is_empty();
        drop(state);
        if waits {
            self.stirred.notify_one();
        }
    }

    /// A pack that was away is so no longer. To be said behind what became of it: until then nothing is
    /// submitted here at once.
    fn is_back(&self, partition: u16) {
        if let Some(queue) = self.lock().queues.get_mut(&partition) {
            queue.away = queue.away.saturating_sub(1);
        }
    }

    /// A pack that was under way was not taken: it waits again, in its place.
    fn not_taken(self: &Arc<Self>, part: &Arc<Part>) {
        {
            let mut state = self.lock();
            let queue = state.queues.entry(part.partition).or_default();
            queue.under_way = queue.under_way.saturating_sub(1);
            queue.since.get_or_insert_with(Instant::now);
            queue.waiting.insert(part.place, Arc::clone(part));
        }
        self.look_after();
    }

    /// Nobody waits for answers any more: what waits is not sent.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for queue in state.queues.values_mut() {
            queue.waiting.clear();
        }
        drop(state);
        self.stirred.notify_one();
    }

    /// Sees to it that a task looks after what waits. May be called on a thread of the engine.
    fn look_after(self: &Arc<Self>) {
        let mut state = self.lock();
        let waits = state.queues.values().any(|queue| !queue.waiting.is_empty());
        if !waits || state.closed {
            return;
        }
        if !state.running {
            state.running = true;
            self.app.runtime.spawn(Arc::clone(self).send_all());
        }
        drop(state);
        self.stirred.notify_one();
    }

    /// Sends what waits until nothing does.
    async fn send_all(self: Arc<Self>) {
        loop {
            {
                let mut state = self.lock();
                let idle = |queue: &Queue| queue.waiting.is_empty();
                if state.closed || state.queues.values().all(idle) {
                    state.running = false;
                    return;
                }
            }
            self.send_ready();
            // Cancellation: a notification that was missed is made up for by the pause.
            let _ = timeout(PAUSE, self.stirred.notified()).await;
        }
    }

    /// Tells those whose packs wait that the stream broke off.
    fn give_up_waiting(&self) {
        let mut state = self.lock();
        let queues = state.queues.values_mut();
        let waiting: Vec<Arc<Part>> = queues
            .flat_map(|queue| std::mem::take(&mut queue.waiting).into_values())
            .collect();
        drop(state);
        for part in waiting {
            part.inbox.put(News::Untaken(broken_off()));
        }
    }

    /// Sends to each owner what waits for it and may go.
    fn send_ready(self: &Arc<Self>) {
        if self.series.is_broken() {
            self.give_up_waiting();
            return;
        }
        let membership = self.app.engine.cluster.membership();
        let wait = self.app.limits.forward_wait;
        let is_me = |at| Some(at) == membership.me;
        let mut here = Vec::new();
        let mut batches: Vec<Batch> = Vec::new();
        let mut given_up = Vec::new();
        let mut state = self.lock();
        for (partition, queue) in &mut state.queues {
            if queue.under_way > 0 || queue.waiting.is_empty() {
                continue;
            }
            if queue.since.is_some_and(|since| since.elapsed() > wait) {
                given_up.extend(std::mem::take(&mut queue.waiting).into_values());
                continue;
            }
            let place = membership.places.get(usize::from(*partition));
            let owner = place.and_then(|place| place.holder.or(place.assigned));
            match owner {
                Some(at) if is_me(at) && self.app.engine.is_open(*partition) => {
                    queue.under_way = queue.waiting.len();
                    queue.away += queue.waiting.len();
                    here.extend(std::mem::take(&mut queue.waiting).into_values());
                }
                Some(at) if !is_me(at) && at < membership.members.len() => {
                    let full =
                        |batch: &&mut Batch| batch.to == at && batch.bytes < packs::SENT_BYTES;
                    let batch = match batches.iter_mut().find(full) {
                        Some(batch) => batch,
                        None => {
                            batches.push(Batch::new(at));
                            batches.last_mut().expect("one was pushed")
                        }
                    };
                    // At least one; those behind it wait for its answer.
                    while batch.bytes < packs::SENT_BYTES
                        && let Some((_, part)) = queue.waiting.pop_first()
                    {
                        batch.bytes += part.pack.len();
                        batch.parts.push(part);
                        queue.under_way += 1;
                        queue.away += 1;
                    }
                }
                _ => {
                    queue.since.get_or_insert_with(Instant::now);
                }
            }
        }
        drop(state);
        for part in given_up {
            let problem = forward::no_owner(part.partition, wait);
            part.inbox.put(News::Untaken(problem));
        }
        if !here.is_empty() {
            self.app.runtime.spawn(Arc::clone(self).send_here(here));
        }
        for batch in batches {
            if let Some(member) = membership.members.get(batch.to) {
                let sending = Arc::clone(self).send(member.clone(), batch.parts);
                self.app.runtime.spawn(sending);
            }
        }
    }

    /// What waited for a partition that has come here.
    async fn send_here(self: Arc<Self>, parts: Vec<Arc<Part>>) {
        while self.app.engine.stats().inbox_bytes > INBOX_FILL_MAX {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        let _closed_stay_closed = self.app.engine.opening.read();
        for part in parts {
            let submitted = if self.series.is_broken() {
                Err(broken_off())
            } else {
                self.submit_here(&part)
            };
            if let Err(problem) = submitted {
                part.inbox.put(News::Untaken(problem));
                self.answered(part.partition);
            }
            self.is_back(part.partition);
        }
    }
}

/// What is said of a pack that was not handed over because one of its stream had failed.
pub(crate) fn broken_off() -> Problem {
    of_submit(&SubmitError::Unwanted)
}

/// What goes to one owner in one request.
struct Batch {
    /// Its place among the members.
    to: usize,
    parts: Vec<Arc<Part>>,
    bytes: usize,
}

impl Batch {
    fn new(to: usize) -> Self {
        Self {
            to,
            parts: Vec::new(),
            bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_submitted_at_once_beside_what_may_still_come_behind_it() {
        let mut queue = Queue::default();
        assert!(queue.is_clear());
        // Submitted here and not decided: what follows comes behind it.
        queue.under_way = 1;
        assert!(queue.is_clear());
        queue.away = 1;
        assert!(!queue.is_clear(), "its owner may still refuse it");
        queue.away = 0;
        let part = Part {
            place: 0,
            partition: 0,
            pack: Vec::new(),
            inbox: Arc::new(Inbox::new(1, None, &Series::default())),
        };
        queue.waiting.insert(0, Arc::new(part));
        assert!(!queue.is_clear());
    }
}
