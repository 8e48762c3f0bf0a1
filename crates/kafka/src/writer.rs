//! The one thread that writes: what is queued goes into a transaction at once, and is shown to this
//! instance's own work before the commit. New work ([`Purpose::Intake`](onhand_log::Purpose::Intake)) goes into
//! young transactions only, what follows from it into any. So one ends when the work that it took is done,
//! also under a steady load.
//!
//! ```text
//!  queue ─► begin ─► records ─► acknowledged ─► View::Latest ─┐
//!              ▲        ▲                                     │ what rests on it
//!              │        └──────────── queue ◄─────────────────┘
//!              │        quiet, large or old: commit ─► windows, endings, listeners
//!              │                                │ no answer: in doubt; the id is ended, then
//!              └── another id ◄─────────────────┤ it is read whether it is there
//!                                               ▼
//!                  failed: gone from View::Latest, Aborted
//! ```
//!
//! One transaction is open at a time, and the next begins when it is certain how the last one ended.
//! What rests on a record that was shown is in the same transaction or in a later one. So when a
//! transaction comes to nothing after something of it was shown, no token that is held then is worth
//! anything any more: whoever has one may have read it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use onhand_log::{Ending, Progress};
use tracing::{debug, info, warn};

use crate::ids::EnterError;
use crate::inner::Inner;
use crate::owner;
use crate::producer::{Failed, TransactionalProducer};
use crate::queue::Queued;
use crate::transaction::{LOOK, Next, One, Sent, Transaction};

/// A commit that took so long may have been asked for twice, over two connections.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// Pause before brokers that did not answer are asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The state of the writing thread.
pub(crate) struct Writer {
    inner: Arc<Inner>,
    /// Free to begin a transaction, one after the other: what ended the last one of an id is still
    /// under way when the next begins, and does not hold it up if that has another id.
    free: VecDeque<TransactionalProducer>,
    /// The id of a transaction that may still be open: it is ended before another one begins.
    unended: Option<String>,
    /// Another id is being taken, in place of one that was lost.
    coming: Option<Receiver<Result<TransactionalProducer, EnterError>>>,
    /// When that was begun last.
    refilled: Instant,
    open: Option<Transaction>,
    /// Of a transaction that came to nothing before anything of it was shown: written again first.
    again: Vec<Queued>,
}

impl Writer {
    pub(crate) fn new(inner: Arc<Inner>, producers: Vec<TransactionalProducer>) -> Self {
        Self {
            inner,
            free: producers.into(),
            unended: None,
            coming: None,
            refilled: Instant::now(),
            open: None,
            again: Vec::new(),
        }
    }

    /// Writes until the log is stopped and nothing waits.
    pub(crate) fn run(mut self) {
        self.inner.queue.attach();
        while self.turn() {}
    }

    /// Returns whether there is more to come.
    fn turn(&mut self) -> bool {
        self.refill();
        let taken = self.take();
        if !taken.is_empty() {
            self.write(taken);
        }
        let Some(open) = &mut self.open else {
            let standing = self.inner.queue.standing();
            if self.again.is_empty() && standing.is_empty {
                if standing.is_stopped {
                    return false;
                }
                std::thread::park_timeout(LOOK);
            } else if !standing.gathers.is_zero() {
                std::thread::park_timeout(standing.gathers);
            }
            return true;
        };
        open.place(&self.inner);
        match open.next(&self.inner) {
            Ok(Next::Wait(patience)) if patience.is_zero() => {}
            Ok(Next::Wait(patience)) => std::thread::park_timeout(patience),
            Ok(Next::Commit) => self.commit(),
            Err(failed) => self.give_up(&failed),
        }
        true
    }

    /// Takes new ids for those that were lost, one at a time and beside the work.
    fn refill(&mut self) {
        if let Some(coming) = &self.coming {
            match coming.try_recv() {
                Ok(Ok(producer)) => self.free.push_back(producer),
                Ok(Err(why)) => debug!(%why, "no other id could be taken"),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {}
            }
            self.coming = None;
        }
        let has = self.free.len() + usize::from(self.open.is_some());
        let wanted = usize::try_from(self.inner.settings.transactional_ids).unwrap_or(usize::MAX);
        // With none at all the writer takes one itself.
        if has == 0 || has >= wanted || self.unended.is_some() || self.refilled.elapsed() < LOOK {
            return;
        }
        self.refilled = Instant::now();
        let (sender, coming) = channel();
        let inner = Arc::clone(&self.inner);
        let take = move || {
            // The writer may have ended meanwhile.
            let _ = sender.send(inner.ids.fresh(&inner.queue));
        };
        let thread = std::thread::Builder::new().name("kafka-ids".into());
        match thread.spawn(take) {
            Ok(_) => self.coming = Some(coming),
            Err(error) => debug!(%error, "no other id could be taken"),
        }
    }

    /// The next appends to write.
    fn take(&mut self) -> Vec<Queued> {
        if !self.again.is_empty() {
            return std::mem::take(&mut self.again);
        }
        let Some(open) = &mut self.open else {
            let most = self.inner.settings.transaction_bytes;
            return self.inner.queue.take(most, true).0;
        };
        if open.is_busy() {
            return Vec::new();
        }
        let room = open.room(&self.inner);
        let (taken, left) = if open.takes_intake() {
            self.inner.queue.take(room, false)
        } else {
            self.inner.queue.take_following(room)
        };
        if left {
            open.close();
        }
        taken
    }

    /// Puts them into the open transaction, or into a new one.
    fn write(&mut self, taken: Vec<Queued>) {
        let judged = taken.into_iter().map(|queued| self.judge(queued));
        let appends: Vec<One> = judged.collect();
        if self.open.is_none() {
            // What may be open is ended first.
            let ended = self.unended.is_none();
            if appends.iter().all(|one| one.ending.is_some()) {
                self.end(appends, Ending::Aborted);
                return;
            }
            let Some(producer) = ended.then(|| self.free.pop_front()).flatten() else {
                // Names may turn out to be lost: they are looked at again before anything is sent.
                if self.replace(self.deadline(&appends)) {
                    self.again = appends.into_iter().map(|one| one.queued).collect();
                } else {
                    self.end(appends, Ending::Aborted);
                }
                return;
            };
            self.open = Some(Transaction::new(producer));
        }
        let added = self
            .open
            .as_mut()
            .map(|open| open.add(&self.inner, appends));
        if let Some(Err(failed)) = added {
            self.give_up(&failed);
        }
    }

    /// Whether it may be written at all.
    fn judge(&self, queued: Queued) -> One {
        let queue = &self.inner.queue;
        let ending = if !queue.holds(&queued.owner, queued.generation) {
            Some(Ending::Fenced)
        } else if queue.is_spoiled(&queued.owner, queued.generation) {
            Some(Ending::Aborted)
        } else {
            None
        };
        One::new(queued, ending)
    }

    /// When the oldest of them has waited long enough.
    fn deadline(&self, appends: &[One]) -> Instant {
        let since = appends.iter().map(|one| one.queued.since).min();
        since.unwrap_or_else(Instant::now) + self.inner.settings.append_timeout
    }

    fn commit(&mut self) {
        let Some(open) = self.open.take() else { return };
        let patience = self.inner.settings.append_timeout;
        let (producer, sent) = open.end(&self.inner);
        let asked = Instant::now();
        // Without a record nothing reaches a broker, and the answer means nothing.
        let why = match producer.commit(patience) {
            Ok(()) => {
                // A connection broke, or was given up for another: a request of this transaction may still
                // be on its way, and must not end the next one of this id.
                if producer.troubled() || asked.elapsed() >= SLOW_COMMIT {
                    self.let_go([producer]);
                } else {
                    self.free.push_back(producer);
                }
                self.committed(sent);
                return;
            }
            Err(Failed::Aborted {
                why,
                usable: true,
                passing,
            }) => {
                warn!(why, "a commit was refused");
                self.let_go([producer]);
                self.came_to_nothing(sent, passing);
                return;
            }
            Err(failed) => failed.why(),
        };
        warn!(
            why,
            "a commit was not answered; reading whether it is there"
        );
        self.lose(producer);
        let until = Instant::now() + patience;
        // Ends it one way or the other, unless a claimer's fence did so before.
        self.replace(until);
        match self.is_there(&sent, until) {
            Some(true) => {
                info!("the commit was there");
                self.committed(sent);
            }
            Some(false) => {
                info!("the commit was not there");
                self.came_to_nothing(sent, true);
            }
            None => {
                warn!("it is not known whether the commit is there");
                self.unknown(sent);
            }
        }
    }

    /// After a failure before the commit: nothing of it is ever visible.
    fn give_up(&mut self, failed: &Failed) {
        let Some(open) = self.open.take() else { return };
        let (producer, sent) = open.end(&self.inner);
        warn!(why = failed.why(), "a transaction was given up");
        self.inner.suspects.store(true, Ordering::Relaxed);
        // Not confirmed, it is ended by the next id that is taken. It has no commit in either case.
        let passing = match failed {
            Failed::Aborted {
                usable, passing, ..
            } => {
                if *usable && producer.abort() {
                    self.let_go([producer]);
                } else {
                    self.lose(producer);
                }
                *passing
            }
            Failed::Fenced { .. } => {
                // Whoever did it did it to all of them.
                let others: Vec<_> = self.free.drain(..).collect();
                self.let_go(others);
                self.lose(producer);
                true
            }
            Failed::InDoubt { .. } => {
                self.lose(producer);
                true
            }
        };
        self.came_to_nothing(sent, passing);
    }

    /// Its transaction may be open still.
    fn lose(&mut self, producer: TransactionalProducer) {
        self.unended = Some(producer.id().to_owned());
        drop(producer);
    }

    /// These have nothing open and are not used any more. Their ids are ended beside the work, so that
    /// others need not.
    fn let_go(&self, producers: impl IntoIterator<Item = TransactionalProducer>) {
        let ids: Vec<_> = producers
            .into_iter()
            .map(|producer| producer.id().to_owned())
            .collect();
        if ids.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let end = move || {
            for id in ids {
                if let Err(why) = inner.ids.end(&id) {
                    warn!(id, why, "an id that is not used any more was not ended");
                }
            }
        };
        let thread = std::thread::Builder::new().name("kafka-ids".into());
        if let Err(error) = thread.spawn(end) {
            warn!(%error, "ids that are not used any more are not ended");
        }
    }

    /// It is visible.
    fn committed(&mut self, sent: Sent) {
        self.inner.commits.fetch_add(1, Ordering::Relaxed);
        let mut grown = sent.untold;
        for (at, end) in sent.ends {
            if let Some(partition) = self.inner.partition(at) {
                grown |= partition.committed(end);
            }
        }
        // Readers hear of it before the callers do, who may read at once.
        if grown {
            self.inner.tell(Progress::Appended);
        }
        self.inner.tell(Progress::Durable);
        self.end(sent.appends, Ending::Durable);
    }

    /// It never will be visible. `passing`: the same may succeed now.
    fn came_to_nothing(&mut self, sent: Sent, passing: bool) {
        let shown = self.withdraw(&sent);
        let until = self.deadline(&sent.appends);
        // Whose names are still ours is found out now, so that endings can say it.
        let ready = self.unended.is_none() && !self.free.is_empty() || self.replace(until);
        if ready && passing && !shown && Instant::now() < until {
            self.again = sent.appends.into_iter().map(|one| one.queued).collect();
        } else {
            self.end(sent.appends, Ending::Aborted);
        }
    }

    /// Nobody says what became of it: what the brokers show is read anew.
    fn unknown(&mut self, sent: Sent) {
        self.withdraw(&sent);
        for at in sent.ends.keys() {
            if let Some(partition) = self.inner.partition(*at) {
                partition.break_off();
            }
        }
        self.end(sent.appends, Ending::Unknown);
    }

    /// Takes it out of the latest view; whether that ever showed anything of it. In this order: who claims
    /// after its token was spoiled reads nothing of it any more.
    fn withdraw(&self, sent: &Sent) -> bool {
        let mut shown = false;
        for at in sent.ends.keys() {
            if let Some(partition) = self.inner.partition(*at) {
                shown |= partition.aborted();
            }
        }
        if shown {
            self.inner.queue.spoil_all();
        }
        // Behind what is gone others may have written what is shown now.
        self.inner.tell(Progress::Appended);
        self.inner.tell(Progress::Durable);
        shown
    }

    /// Tells the endings, in order.
    fn end(&self, appends: Vec<One>, ending: Ending) {
        let queue = &self.inner.queue;
        let ended = appends.into_iter().map(|one| {
            let lost = || !queue.holds(&one.queued.owner, one.queued.generation);
            let ending = match one.ending {
                Some(ending) => ending,
                None if ending == Ending::Aborted && lost() => Ending::Fenced,
                None => ending,
            };
            (one.queued, ending)
        });
        queue.end(ended.collect());
    }

    /// Whether a transaction in doubt was committed: its records are visible. All of it is or nothing,
    /// so one suffices. `None` when no broker says so in time.
    fn is_there(&self, sent: &Sent, until: Instant) -> Option<bool> {
        let Some((topic, partition, offset)) = &sent.witness else {
            // Nothing was written: it is as if committed.
            return (sent.records == 0).then_some(true);
        };
        loop {
            match self.inner.pool.is_visible(topic, *partition, *offset) {
                Ok(found) => return Some(found),
                Err(why) if Instant::now() >= until => {
                    warn!(why, "a transaction stays in doubt");
                    return None;
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Ends what may be open, takes a new id, and gives up the names that others claimed meanwhile. False
    /// when no broker answered, or when this run has ended.
    fn replace(&mut self, until: Instant) -> bool {
        loop {
            let ids = &self.inner.ids;
            let ended = match &self.unended {
                Some(id) => ids.end(id).map_err(EnterError::Cluster),
                None => Ok(()),
            };
            if ended.is_ok() {
                self.unended = None;
            }
            match ended.and_then(|()| ids.fresh(&self.inner.queue)) {
                Ok(producer) => {
                    self.free.push_front(producer);
                    return true;
                }
                Err(EnterError::Cluster(why)) => {
                    warn!(why, "the cluster does not answer the writer");
                    if Instant::now() >= until {
                        return false;
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(ended) => {
                    owner::end(&self.inner, &ended);
                    return false;
                }
            }
        }
    }
}
