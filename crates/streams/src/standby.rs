//! Standbys: the state of partitions that others own, kept up with the log in memory.
//!
//! ```text
//!  follow ─► [restore: snapshot or changelog, redo] ─► [follow: redo, as it becomes durable] ─► reads
//!                                                          │  a claim (Opener::open)
//!                                                          └─► the redo that is left ─► a task
//! ```
//!
//! A standby claims nothing, decides nothing and writes nothing but snapshot files. It applies only what
//! is durable. Whoever opens the partition here takes its state over behind the claim, and has to read
//! what it had not read yet. A state that does not fit the log is thrown away and restored anew, after a
//! pause that doubles up to a minute.
//!
//! **How stale it is.** The log is asked at even times where everything ends that anybody was told is
//! durable ([`Log::told_end`]). Once the standby has applied all up to there, it was level at the time
//! of that question: what it shows is at most as old as that question. While nobody answers, or
//! something undecided stands before that end, its age grows.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use onhand_log::{Log, Progress};

use crate::following::{Inner, Slot, Step};
use crate::processor::Processor;
use crate::restore::RestoreError;
use crate::snapshot::SnapshotDir;
use crate::task::Topics;
use crate::warm::Warm;

/// What is known of one standby.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Following {
    /// Whether its state is whole and follows the log; before, it is being restored.
    pub is_warm: bool,
    /// Offsets between what it has applied, or restored, and the end, as far as that is known.
    pub lag: u64,
    /// How old what it shows may be: the time since it was last known to lack nothing. `None` before
    /// that was so for the first time.
    pub stale: Option<Duration>,
}

/// Follows partitions for a worker, and answers from them. Clones share the standbys.
pub struct Standbys<P: Processor>(Arc<Inner<P>>);

impl<P: Processor> Clone for Standbys<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Processor> fmt::Debug for Standbys<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Standbys").field(&self.all()).finish()
    }
}

impl<P: Processor> Standbys<P> {
    pub(crate) fn new(
        log: &Arc<dyn Log>,
        name: &str,
        topics: Topics,
        make: &Arc<dyn Fn(u16) -> P + Send + Sync>,
        snapshots: Option<SnapshotDir>,
        snapshot_redo_bytes: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            log: Arc::clone(log),
            name: name.into(),
            topics,
            make: Arc::clone(make),
            snapshots,
            snapshot_redo_bytes,
            slots: Mutex::default(),
            stirred: Mutex::new(false),
            stir: Condvar::new(),
            stop: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            threads: Mutex::default(),
        }))
    }

    /// Follows these partitions from now on, and lets go of what it followed beside them, with its
    /// memory, but for those of `keep`: they are followed on where they are. None of them may be open
    /// in this worker. It returns at once: restoring happens on a thread of its own, one partition after
    /// another.
    ///
    /// A partition that is opened ([`Opener::open`](crate::Opener::open)) is not followed any more. Once
    /// the worker has stopped nothing is followed.
    ///
    /// # Errors
    /// When the threads could not be started; nothing is followed.
    pub fn follow(&self, partitions: &BTreeSet<u16>, keep: &BTreeSet<u16>) -> std::io::Result<()> {
        let inner = &self.0;
        {
            let mut slots = inner.slots();
            slots.retain(|partition, slot| {
                let stays = partitions.contains(partition) || keep.contains(partition);
                slot.gone.fetch_or(!stays, Ordering::SeqCst);
                stays
            });
            if inner.is_stopped() || partitions.is_empty() {
                return Ok(());
            }
            for partition in partitions {
                slots
                    .entry(*partition)
                    .or_insert_with(|| Arc::new(inner.new_slot(*partition)));
            }
        }
        self.start().inspect_err(|_| inner.slots().clear())?;
        inner.stir();
        Ok(())
    }

    /// Partitions that were taken over from a standby here since the start.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The partitions that are followed.
    pub fn followed(&self) -> BTreeSet<u16> {
        self.0.slots().keys().copied().collect()
    }

    /// What is known of a partition's standby; `None` where it has none here.
    pub fn of(&self, partition: u16) -> Option<Following> {
        let slot = self.0.slot(partition)?;
        let state = slot.lock();
        Some(Following {
            is_warm: state.warm.is_some(),
            lag: slot.left.load(Ordering::Relaxed),
            stale: state.level.map(|level| level.elapsed()),
        })
    }

    /// What is known of all of them, by partition.
    pub fn all(&self) -> Vec<(u16, Following)> {
        let partitions = self.followed().into_iter();
        partitions
            .filter_map(|partition| Some((partition, self.of(partition)?)))
            .collect()
    }

    /// Asks the standby of that partition, where it has one here and what it shows is at most `most` old.
    /// Says with the answer how old it may be. It may wait for a chunk of redo to be applied, and
    /// `question` must be short: nothing is applied meanwhile.
    pub fn ask<R>(
        &self,
        partition: u16,
        most: Duration,
        question: impl FnOnce(&mut P) -> R,
    ) -> Option<(R, Duration)> {
        let slot = self.0.slot(partition)?;
        let mut state = slot.lock();
        let level = state.level.filter(|level| level.elapsed() <= most)?;
        let answer = question(&mut state.warm.as_mut()?.processor);
        Some((answer, level.elapsed()))
    }

    /// The standby of a partition that was claimed here, brought up to all that is durable, and how many
    /// records that took. `None` where there is none that can be taken over.
    ///
    /// # Errors
    /// What may pass: the standby is where it was.
    pub(crate) fn catch_up(
        &self,
        partition: u16,
    ) -> Result<Option<(Arc<Slot<P>>, u64)>, RestoreError> {
        let mut records = 0;
        let Some(slot) = self.0.slot(partition) else {
            return Ok(None);
        };
        loop {
            match self.0.apply_some(&slot) {
                Ok(Step::Cold) => {
                    // Being restored: whoever has claimed it does that with more right.
                    self.0.drop_slot(partition);
                    return Ok(None);
                }
                Ok(Step::AtEnd(_)) => return Ok(Some((slot, records))),
                Ok(Step::Moved(more)) => records += more,
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    tracing::error!(partition, %error, "a standby does not fit the log, restoring");
                    self.0.drop_slot(partition);
                    return Ok(None);
                }
            }
        }
    }

    /// Takes the state out of a standby that was caught up.
    pub(crate) fn take(&self, slot: &Slot<P>) -> Option<Warm<P>> {
        self.0.drop_slot(slot.spec.partition);
        let warm = slot.lock().warm.take();
        self.0
            .taken
            .fetch_add(u64::from(warm.is_some()), Ordering::Relaxed);
        warm
    }

    fn start(&self) -> std::io::Result<()> {
        let inner = &self.0;
        let mut threads = inner.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if !threads.is_empty() || inner.is_stopped() {
            return Ok(());
        }
        let listening = Arc::downgrade(inner);
        let work: [(&str, fn(&Inner<P>)); 3] = [
            ("standby", Inner::follow),
            ("standby-restore", Inner::restore),
            ("standby-ask", Inner::ask_ends),
        ];
        for (name, work) in work {
            let inner = Arc::clone(inner);
            let thread = std::thread::Builder::new().name(name.to_owned());
            threads.push(thread.spawn(move || work(&inner))?);
        }
        inner.log.listen(Box::new(move |progress| {
            if let (Progress::Durable, Some(inner)) = (progress, listening.upgrade()) {
                inner.stir();
            }
        }));
        Ok(())
    }

    /// Follows nothing any more, writes snapshots where they shorten a restart, and ends the threads.
    pub(crate) fn end(&self) {
        let inner = &self.0;
        inner.stop.store(true, Ordering::SeqCst);
        let slots = std::mem::take(&mut *inner.slots());
        for slot in slots.values() {
            slot.gone.store(true, Ordering::SeqCst);
        }
        inner.stir();
        let threads =
            std::mem::take(&mut *inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the standbys panicked");
            }
        }
        for slot in slots.values() {
            inner.snapshot(slot, |warm| warm.is_snapshot_worth_it());
        }
    }
}
