//! A log in memory that several nodes share, and a cluster whose members and assignments a test moves
//! by hand. Claims wait for who holds a name, and are known to all, as the real ones are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use onhand_log::cluster::{Cluster, Ended, Member, Membership, Place};
use onhand_log::memory::MemoryLog;
use onhand_log::{
    Append, AppendError, Bounds, Fetch, Listener, Log, Offset, ReadError, Stats, Timestamp, Token,
    Topic, TopicError, TopicId, TopicPartition, TopicSpec, View,
};
use onhand_server::{Ground, RunError};

/// How long a claim waits for a live holder.
const RELEASE: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct Standing {
    version: u64,
    runs: u64,
    members: BTreeMap<String, Member>,
    /// By partition, names.
    assigned: Vec<Option<String>>,
    /// By partition, incarnations.
    holders: Vec<Option<Arc<str>>>,
    /// By incarnation.
    ended: BTreeMap<Arc<str>, Ended>,
    /// By incarnation, since when the others hear nothing from it.
    unheard: BTreeMap<Arc<str>, Instant>,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) log: Arc<MemoryLog>,
    standing: Mutex<Standing>,
    changed: Condvar,
    looks: Mutex<Looks>,
}

/// How far each run sees what is durable, and since when there is more.
#[derive(Debug, Default)]
struct Looks {
    late: Duration,
    seen: BTreeMap<(Arc<str>, TopicPartition), (Offset, Option<Instant>)>,
}

impl Table {
    pub(crate) fn new(partitions: u16) -> Arc<Self> {
        let standing = Standing {
            assigned: vec![None; usize::from(partitions)],
            holders: vec![None; usize::from(partitions)],
            ..Standing::default()
        };
        Arc::new(Self {
            log: Arc::default(),
            standing: Mutex::new(standing),
            changed: Condvar::new(),
            looks: Mutex::default(),
        })
    }

    /// From now on a node sees what is durable so much later than it looked for it first: what others wrote
    /// has to arrive, and its own may stand behind what another left open.
    pub(crate) fn show_late(&self, late: Duration) {
        self.looks.lock().unwrap().late = late;
    }

    /// How far a run sees that looks at a partition which ends there.
    fn sees(&self, run: &Arc<str>, at: TopicPartition, end: Offset) -> Offset {
        let mut looks = self.looks.lock().unwrap();
        let late = looks.late;
        let (seen, since) = looks.seen.entry((Arc::clone(run), at)).or_default();
        if end > *seen {
            let since_then = since.get_or_insert_with(Instant::now).elapsed();
            if since_then >= late {
                (*seen, *since) = (end, None);
            }
        }
        *seen
    }

    fn change<R>(&self, change: impl FnOnce(&mut Standing) -> R) -> R {
        let mut standing = self.standing.lock().unwrap();
        standing.version += 1;
        let changed = change(&mut standing);
        drop(standing);
        self.changed.notify_all();
        changed
    }

    pub(crate) fn assign(&self, partition: u16, name: &str) {
        self.change(|s| s.assigned[usize::from(partition)] = Some(name.to_owned()));
    }

    /// Whether the others hear that one.
    pub(crate) fn hear(&self, name: &str, is_heard: bool) {
        self.change(|s| {
            let run = Arc::clone(&s.members[name].incarnation);
            if is_heard {
                s.unheard.remove(&run);
            } else {
                s.unheard.insert(run, Instant::now());
            }
        });
    }

    /// A member that is no node of this test.
    pub(crate) fn add(&self, name: &str, address: SocketAddr) {
        let member = Member {
            name: name.into(),
            incarnation: format!("{name}.0").into(),
            address: address.to_string().into(),
            takes_part: true,
        };
        self.change(|s| s.members.insert(name.to_owned(), member));
    }

    /// The others give it up: its partitions go to `heir`.
    pub(crate) fn end(&self, name: &str, why: Ended, heir: Option<&str>) {
        self.change(|s| {
            if let Some(member) = s.members.remove(name) {
                s.ended.insert(member.incarnation, why);
            }
            for assigned in &mut s.assigned {
                if assigned.as_deref() == Some(name) {
                    *assigned = heir.map(str::to_owned);
                }
            }
        });
    }

    /// Waits until every partition is held by the one it is assigned to.
    pub(crate) fn settle(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        let mut standing = self.standing.lock().unwrap();
        loop {
            let settled = standing
                .assigned
                .iter()
                .zip(&standing.holders)
                .all(|(name, holder)| {
                    let member = name.as_ref().and_then(|name| standing.members.get(name));
                    member.map(|member| &member.incarnation) == holder.as_ref()
                });
            if settled {
                return;
            }
            let left = until.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("not settled: {standing:?}"));
            standing = self.changed.wait_timeout(standing, left).unwrap().0;
        }
    }

    fn membership(&self, standing: &Standing, incarnation: &Arc<str>) -> Arc<Membership> {
        let members: Vec<Member> = standing.members.values().cloned().collect();
        let of_name = |name: &String| members.iter().position(|m| *m.name == **name);
        let of_run = |run: &Arc<str>| members.iter().position(|m| m.incarnation == *run);
        let places = standing.assigned.iter().zip(&standing.holders);
        Arc::new(Membership {
            version: standing.version,
            me: of_run(incarnation),
            places: places
                .map(|(name, holder)| Place {
                    assigned: name.as_ref().and_then(of_name),
                    holder: holder.as_ref().and_then(of_run),
                })
                .collect(),
            warm_up: None,
            ended: standing.ended.get(incarnation).copied(),
            members,
        })
    }

    /// What a node of that name runs on, each time it begins.
    pub(crate) fn seat(self: &Arc<Self>, name: &str) -> Box<dyn Ground> {
        let run = self.change(|s| {
            s.runs += 1;
            s.runs
        });
        Box::new(Seat {
            table: Arc::clone(self),
            name: name.into(),
            incarnation: format!("{name}.{run}").into(),
        })
    }
}

#[derive(Clone, Debug)]
struct Seat {
    table: Arc<Table>,
    name: Arc<str>,
    incarnation: Arc<str>,
}

impl Ground for Seat {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.clone())
    }

    fn instance(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn join(&self, _partitions: u16, address: &str) -> Result<Arc<dyn Cluster>, RunError> {
        let member = Member {
            name: Arc::clone(&self.name),
            incarnation: Arc::clone(&self.incarnation),
            address: address.into(),
            takes_part: true,
        };
        self.table
            .change(|s| s.members.insert(self.name.to_string(), member));
        Ok(Arc::new(self.clone()))
    }
}

impl Cluster for Seat {
    fn membership(&self) -> Arc<Membership> {
        let standing = self.table.standing.lock().unwrap();
        self.table.membership(&standing, &self.incarnation)
    }

    fn wait(&self, seen: u64, patience: Duration) -> Arc<Membership> {
        let standing = self.table.standing.lock().unwrap();
        let unseen = |standing: &mut Standing| standing.version == seen;
        let waited = self
            .table
            .changed
            .wait_timeout_while(standing, patience, unseen);
        let standing = waited.unwrap().0;
        self.table.membership(&standing, &self.incarnation)
    }

    fn unheard(&self) -> Option<Duration> {
        let standing = self.table.standing.lock().unwrap();
        let since = standing.unheard.get(&self.incarnation)?;
        Some(since.elapsed())
    }

    fn take_part(&self) {}

    fn leave(&self) -> Result<(), String> {
        let others = |s: &MutexGuard<'_, Standing>| {
            let mut names = s.members.keys();
            names.find(|name| **name != *self.name).cloned()
        };
        let heir = others(&self.table.standing.lock().unwrap());
        self.table.end(&self.name, Ended::Left, heir.as_deref());
        Ok(())
    }
}

/// The partition that a name of a task is of.
fn partition_of(owner: &str) -> Option<usize> {
    owner.strip_prefix("stock/")?.parse().ok()
}

impl Log for Seat {
    fn id(&self) -> u64 {
        self.table.log.id()
    }
    fn standing(&self) -> onhand_log::Standing {
        self.table.log.standing()
    }
    fn set_standing(&self, standing: &onhand_log::Standing) -> Result<(), AppendError> {
        self.table.log.set_standing(standing)
    }
    fn epoch(&self) -> u64 {
        self.table.log.epoch()
    }
    fn now(&self) -> Timestamp {
        self.table.log.now()
    }
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        self.table.log.create_topic(spec)
    }
    fn topics(&self) -> Vec<Topic> {
        self.table.log.topics()
    }
    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        let Some(partition) = partition_of(owner) else {
            return self.table.log.claim(owner);
        };
        let standing = self.table.standing.lock().unwrap();
        // One that said that it goes is waited for as well.
        let lives = |s: &mut Standing| {
            let holder = s.holders[partition].as_ref();
            holder.is_some_and(|run| {
                s.ended.get(run) == Some(&Ended::Left)
                    || s.members.values().any(|m| m.incarnation == *run)
            })
        };
        let waited = self
            .table
            .changed
            .wait_timeout_while(standing, RELEASE, lives);
        drop(waited);
        let token = self.table.log.claim(owner)?;
        self.table
            .change(|s| s.holders[partition] = Some(Arc::clone(&self.incarnation)));
        Ok(token)
    }
    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        self.table.log.give_up(token)?;
        if let Some(partition) = partition_of(&token.owner) {
            self.table.change(|s| {
                if s.holders[partition].as_ref() == Some(&self.incarnation) {
                    s.holders[partition] = None;
                }
            });
        }
        Ok(())
    }
    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        self.table.log.append(token, append)
    }
    fn flush(&self) {
        self.table.log.flush();
    }
    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        let mut fetch = self.table.log.read(at, from, max_bytes, view)?;
        if view == View::Durable {
            let end = self.bounds(at, view)?.end;
            fetch.batches.retain(|batch| batch.next_offset() <= end);
            fetch.next = fetch.next.min(end).max(from);
        }
        Ok(fetch)
    }
    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        self.table.log.offset_at(at, time)
    }
    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        let mut bounds = self.table.log.bounds(at, view)?;
        if view == View::Durable {
            bounds.end = self.table.sees(&self.incarnation, at, bounds.end);
        }
        Ok(bounds)
    }
    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        self.table.log.consumed(owner, at)
    }
    fn listen(&self, listener: Listener) {
        self.table.log.listen(listener);
    }
    fn stats(&self) -> Stats {
        self.table.log.stats()
    }
    fn close(&self) -> Result<(), AppendError> {
        // The others go on.
        Ok(())
    }
}
