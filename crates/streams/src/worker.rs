//! Workers: threads that take in what callers submit and drive the tasks of their partitions.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use onhand_log::{Log, Progress};

use crate::inbox::{Shared, SubmitError, WorkerHandle};
use crate::processor::Processor;
use crate::restore::{RestoreError, Restored};
use crate::round::{Round, Standing, drive};
use crate::snapshot::SnapshotDir;
use crate::task::{Task, TaskSpec, Topics};

/// How the tasks of a node are run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Threads; partition p is driven by thread p modulo this. 1 fits two cores: parsing and rendering
    /// outside cost more than deciding.
    pub threads: u16,
    /// What may wait in a thread's inbox; above it [`SubmitError::Busy`]. Bounds memory.
    pub inbox_bytes: usize,
    /// Where snapshot files go; `None`: none are written or read.
    pub snapshot_dir: Option<PathBuf>,
    /// A snapshot of a task is written when this much redo stands behind the last one, and four times
    /// as much as that took; and when the task closes. Bounds what a restart applies again.
    pub snapshot_redo_bytes: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            inbox_bytes: 64 << 20,
            snapshot_dir: None,
            snapshot_redo_bytes: 8 << 20,
        }
    }
}

/// The running workers of a node. Dropping it stops them; [`Worker::stop`] also says how it went.
pub struct Worker<P: Processor> {
    handle: WorkerHandle<P>,
    threads: Vec<JoinHandle<()>>,
}

impl<P: Processor> fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("threads", &self.threads.len())
            .finish()
    }
}

impl<P: Processor> Worker<P> {
    /// Takes all partitions of the input topic, restores their tasks, several at a time, and starts
    /// the threads. `restored` is told of each partition as it is ready.
    ///
    /// # Errors
    /// [`RestoreError`] of the first partition that cannot be restored.
    pub fn start(
        log: &Arc<dyn Log>,
        name: &str,
        topics: Topics,
        partitions: u16,
        make: impl Fn(u16) -> P + Send + Sync + 'static,
        config: &WorkerConfig,
        restored: &(dyn Fn(u16, Restored) + Sync),
    ) -> Result<Self, RestoreError> {
        let name: Arc<str> = name.into();
        let make: Arc<dyn Fn(u16) -> P + Send + Sync> = Arc::new(make);
        let snapshots = config
            .snapshot_dir
            .as_deref()
            .map(|path| SnapshotDir::new(path).map_err(|error| (path.to_owned(), error)))
            .transpose()
            .map_err(|(path, error)| RestoreError::Snapshots { path, error })?;
        let tasks = restore_all(
            log,
            &name,
            topics,
            partitions,
            &make,
            snapshots.as_ref(),
            restored,
        )?;

        let thread_count = config.threads.clamp(1, partitions.max(1));
        let instance = instance_mark();
        let shared: Vec<_> = (0..thread_count).map(|_| Arc::new(Shared::new())).collect();
        for one in &shared {
            let one = Arc::clone(one);
            log.listen(Box::new(move |progress| {
                if progress != Progress::Durable {
                    one.stir();
                }
            }));
        }
        let mut per_thread: Vec<Vec<Task<P>>> = (0..thread_count).map(|_| Vec::new()).collect();
        for (partition, task) in tasks.into_iter().enumerate() {
            if let Some(share) = per_thread.get_mut(partition % usize::from(thread_count)) {
                share.push(task);
            }
        }
        let mut threads = Vec::new();
        for (number, (shared, tasks)) in shared.iter().zip(per_thread).enumerate() {
            let token = log.claim(&format!("{name}-intake/{number}"))?;
            let standings = vec![Standing::default(); tasks.len()];
            let mut round = Round {
                log: Arc::clone(log),
                token,
                topics,
                tasks,
                thread_count,
                make: Arc::clone(&make),
                in_flight: Default::default(),
                tickets: Default::default(),
                instance,
                next_ticket: (number as u64) << 48,
                snapshots: snapshots.clone(),
                snapshot_redo_bytes: config.snapshot_redo_bytes,
                standings,
            };
            round.note_all();
            let (log, shared) = (Arc::clone(log), Arc::clone(shared));
            let mut held = shared.round.lock().unwrap_or_else(PoisonError::into_inner);
            *held = Some(round);
            drop(held);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    let drive = || drive(log.as_ref(), &shared);
                    // A panic outside the processing of a record leaves the round poisoned: the
                    // second call sees that, and tells everybody who waits.
                    if std::panic::catch_unwind(AssertUnwindSafe(drive)).is_err() {
                        drive();
                    }
                })?;
            threads.push(thread);
        }
        let handle = WorkerHandle {
            shared: Arc::new(shared),
            partitions,
            inbox_bytes_max: config.inbox_bytes,
        };
        Ok(Self { handle, threads })
    }

    /// The way in, to hand out. It works until the workers stop, and refuses from then on.
    pub fn handle(&self) -> WorkerHandle<P> {
        self.handle.clone()
    }

    /// Takes nothing more, finishes what was taken, makes it durable, writes snapshots, and ends the
    /// threads.
    ///
    /// # Errors
    /// What a thread stopped for, if one had stopped before.
    pub fn stop(mut self) -> Result<(), SubmitError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SubmitError> {
        for shared in self.handle.shared.iter() {
            shared.lock().stop = true;
            shared.arrived.notify_one();
        }
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                result = Err(SubmitError::Stopped("a worker thread panicked".to_owned()));
            }
        }
        for shared in self.handle.shared.iter() {
            if let Some(why) = &shared.lock().closed {
                result = Err(SubmitError::Stopped(why.clone()));
            }
        }
        result
    }
}

impl<P: Processor> Drop for Worker<P> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "worker ended in trouble");
        }
    }
}

/// A mark that no earlier process of this log used, as far as 32 bits can tell: a restarted node must
/// not take an old record's key for one of its own tickets. Old records are not read again unless
/// their decision was lost, and a false match then only answers a ticket number that is not open.
fn instance_mark() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mixed = RandomState::new().build_hasher().finish();
    u32::try_from(mixed >> 32).expect("32 bits are left")
}

fn restore_all<P: Processor>(
    log: &Arc<dyn Log>,
    name: &Arc<str>,
    topics: Topics,
    partitions: u16,
    make: &Arc<dyn Fn(u16) -> P + Send + Sync>,
    snapshots: Option<&SnapshotDir>,
    restored: &(dyn Fn(u16, Restored) + Sync),
) -> Result<Vec<Task<P>>, RestoreError> {
    let next = AtomicU64::new(0);
    let done = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(usize::from(partitions)) {
            scope.spawn(|| {
                while let Ok(partition) = u16::try_from(next.fetch_add(1, Ordering::SeqCst)) {
                    if partition >= partitions {
                        return;
                    }
                    let spec = TaskSpec {
                        name: Arc::clone(name),
                        topics,
                        partition,
                    };
                    let opened = Task::open(log, spec, make(partition), snapshots);
                    if let Ok((_, report)) = &opened {
                        restored(partition, *report);
                    }
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((partition, opened.map(|(task, _)| task)));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(partition, _)| *partition);
    done.into_iter().map(|(_, task)| task).collect()
}
