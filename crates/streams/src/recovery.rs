//! What a worker's thread does beside its rounds: it reopens the tasks after an append that did not end
//! well, keeps their snapshots, and ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use onhand_log::{AppendError, Ending, View};

use crate::inbox::{Query, Reply, Shared, SubmitError};
use crate::opener::{retire, store_snapshot, take_snapshot};
use crate::processor::Processor;
use crate::restore::RestoreError;
use crate::round::Round;
use crate::snapshot::LogMark;
use crate::tickets::FAILED;

/// Between two tries to reopen the tasks while the log cannot be reached.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// The longest wait for appends in flight before tasks are reopened.
const SETTLE_MAX: Duration = Duration::from_secs(60);

impl<P: Processor> Round<P> {
    /// Reopens the tasks after an append that did not end well. Returns whether they go on. While the log
    /// cannot be reached it waits: what is submitted meanwhile waits too, up to the inbox's bound.
    pub(crate) fn recover(&mut self, shared: &Shared<P>, trouble: Ending) -> bool {
        loop {
            let error = match self.reopen_all(trouble) {
                Ok(()) => break,
                Err(error) => error,
            };
            if !error.may_pass() || shared.lock().stop {
                self.close(shared, &error.to_string(), Vec::new());
                return false;
            }
            tracing::warn!(%error, "the tasks cannot be reopened yet, trying again");
            std::thread::sleep(REOPEN_PAUSE);
        }
        shared.stirred.store(true, Ordering::SeqCst);
        true
    }

    /// Restores a task from the log. What does not fit stops it; what may pass is left to the caller.
    pub(crate) fn reopen(&mut self, partition: u16) -> Result<(), RestoreError> {
        let make = Arc::clone(&self.make);
        let log = Arc::clone(&self.log);
        let Some(task) = self.task(partition) else {
            return Ok(());
        };
        let reopened = match task.reopen(&log, &|| make(partition)) {
            Err(error) if error.may_pass() => Err(error),
            Err(error) => {
                task.stop(error.to_string());
                Ok(())
            }
            Ok(_) => Ok(()),
        };
        self.forget_tick(partition);
        self.note(partition);
        reopened
    }

    /// After an append that did not end well: what came after it in memory may never have happened.
    fn reopen_all(&mut self, trouble: Ending) -> Result<(), RestoreError> {
        tracing::warn!(
            ?trouble,
            "an append did not become durable, reopening the tasks"
        );
        let began = Instant::now();
        while self.in_flight.count() > 0 {
            if began.elapsed() > SETTLE_MAX {
                let why = "appends in flight did not end".to_owned();
                return Err(AppendError::Stopped(why).into());
            }
            self.log.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
        for ticket in self.tickets.drain() {
            ticket.failed(FAILED);
        }
        // What came behind the first that did not end well has ended too by now.
        let trouble = self.in_flight.trouble().unwrap_or(trouble);
        self.in_flight.clear_trouble();
        let owner = Arc::clone(&self.token.owner);
        if trouble == Ending::Fenced {
            // Claiming anything now would take it back from whoever has it, who would do the same.
            return Err(AppendError::Fenced { owner }.into());
        }
        // Those need no state any more.
        self.hand_out_all(false);
        self.token = self.log.claim(&owner)?;
        let partitions: Vec<u16> = self.partitions().collect();
        partitions.into_iter().try_for_each(|p| self.reopen(p))
    }

    /// Begins a snapshot, if one is due. Partitions that share a load become due together: they take turns,
    /// with work in between, so that a command waits for one state to be collected and not for all.
    pub(crate) fn snapshot_where_due(&mut self) {
        let began = Instant::now();
        if !self.snapshot_turns.is_free(began) {
            return;
        }
        let least = self.snapshot_redo_bytes;
        let tasks = self.tasks.iter().enumerate();
        let due = tasks
            .filter_map(|(place, task)| Some((place, task.as_ref()?)))
            .filter(|(_, task)| task.is_snapshot_due(least))
            .max_by_key(|(_, task)| task.unsnapped_bytes());
        let Some((place, task)) = due else {
            return;
        };
        let partition = task.spec().partition;
        if self.snapshot(place) {
            let took = began.elapsed();
            self.snapshot_turns.ended(began, took);
            tracing::debug!(partition, ?took, "collected a state for a snapshot");
        }
    }

    /// Collects the task's state, and writes it once everything in it is durable: a snapshot must
    /// never say more than the log. Whether it was collected.
    fn snapshot(&mut self, place: usize) -> bool {
        let Some(dir) = self.snapshots.clone() else {
            return false;
        };
        let mark = LogMark::of(self.log.as_ref());
        let log = Arc::clone(&self.log);
        let Some(task) = self.tasks.get_mut(place).and_then(Option::as_mut) else {
            return false;
        };
        let redo = task.spec().at(self.topics.redo);
        let Ok(bounds) = log.bounds(redo, View::Latest) else {
            return false;
        };
        let builder = take_snapshot(task, mark, bounds.end);
        let owner = task.spec().owner();
        self.in_flight.after(Box::new(move |good| {
            if !good {
                return;
            }
            let store = move || store_snapshot(&dir, &owner, builder);
            let thread = std::thread::Builder::new().name("snapshot".to_owned());
            if let Err(error) = thread.spawn(store) {
                tracing::warn!(%error, "snapshot not written, restarts take longer");
            }
        }));
        true
    }

    /// Nothing more comes: make everything durable, give the names up, write snapshots.
    pub(crate) fn finish(&mut self, shared: &Shared<P>) {
        self.hand_out_all(true);
        self.log.flush();
        let began = Instant::now();
        while self.in_flight.count() > 0 && began.elapsed() < SETTLE_MAX {
            std::thread::sleep(Duration::from_micros(200));
        }
        if self.in_flight.count() == 0 {
            let is_whole = self.in_flight.trouble().is_none();
            let snapshots = self.snapshots.as_ref();
            let tasks = self.tasks.iter_mut().filter_map(Option::take);
            let retired = tasks.map(|task| {
                // Who stops has the time for it, however large.
                retire(self.log.as_ref(), task, is_whole, snapshots, usize::MAX)
            });
            // A log that stopped says so of each.
            let mut refused = retired.filter_map(Result::err).collect::<Vec<_>>();
            refused.extend(self.log.give_up(&self.token).err());
            if let Some(error) = refused.first() {
                tracing::warn!(%error, names = refused.len(), "names were not given up");
            }
        }
        self.close(shared, "it is shut down", Vec::new());
        shared.lock().closed = None;
    }

    /// Takes nothing more and tells everybody who waits.
    pub(crate) fn close(
        &mut self,
        shared: &Shared<P>,
        why: &str,
        queries: Vec<(u16, (Query<P>, Reply))>,
    ) {
        shared.close(why);
        let stopped = self.partitions().count() as u64;
        shared.stopped_tasks.store(stopped, Ordering::Relaxed);
        for (_, (_, on_stop)) in queries {
            on_stop(Err(SubmitError::Stopped(why.to_owned())));
        }
        for ticket in self.tickets.drain() {
            ticket.failed(FAILED);
        }
        // Who closes a partition hears it by the end of the channel.
        self.closing.clear();
    }
}
