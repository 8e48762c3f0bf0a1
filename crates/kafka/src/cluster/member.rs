//! Joining the instances that share a log: heartbeats, the assignment, and what callers are told.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use onhand_log::cluster::{Cluster, Ended, Membership};
use tracing::{info, warn};

use crate::cluster::Board;
use crate::cluster::note::{Alive, Assignment, Note, name_of};
use crate::cluster::view::Part;
use crate::cluster::voice::Sent;
use crate::error::OpenError;
use crate::settings::KafkaSettings;

/// How long an assignment that was sent may take to be read before it is sent again.
const PROPOSAL_PATIENCE: Duration = Duration::from_secs(1);
/// How soon after its report a heartbeat counts as written, and the one behind a late one goes.
const LOOK: Duration = Duration::from_millis(20);
/// Most partitions, as of a topic.
const PARTITIONS_MAX: u16 = 1_024;
/// It stands in every heartbeat.
const ADDRESS_BYTES_MAX: usize = 255;

/// How an instance joins those that share its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    /// Where this instance answers requests, `host:port`, 1 to 255 bytes without spaces. The others
    /// are told.
    pub address: String,
    /// How many partitions the instances share, 1 to 1,024. The same for all of them, always.
    pub partitions: u16,
    /// Names whose owners `name/PARTITION` are spread over the instances: a claim of one succeeds only
    /// where the partition is assigned. Names without a slash; owners of other names may be claimed by
    /// anybody.
    pub spread: Vec<String>,
    /// Whether this member shall warm up before it takes part, until [`Cluster::take_part`]. It takes part
    /// at once where that helps nobody: where an earlier run of the instance has partitions still, or
    /// nobody else takes part.
    pub warms_up: bool,
}

impl Join {
    fn check(&self) -> Result<(), OpenError> {
        let refuse = |what: String| Err(OpenError::Settings(what));
        let address = &self.address;
        if !(1..=ADDRESS_BYTES_MAX).contains(&address.len())
            || address.contains(char::is_whitespace)
        {
            return refuse(format!(
                "{address:?} is no address to tell others: use host:port"
            ));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            let partitions = self.partitions;
            return refuse(format!(
                "partitions is {partitions}; choose 1 to {PARTITIONS_MAX}"
            ));
        }
        if let Some(name) = self.spread.iter().find(|name| name.contains('/')) {
            return refuse(format!(
                "{name:?} is no name to spread: use one without a slash"
            ));
        }
        Ok(())
    }
}

type OnEnd = Box<dyn FnOnce(Ended) + Send>;

/// What the reading thread keeps for callers.
pub(crate) struct Joined {
    newest: Mutex<Arc<Membership>>,
    changed: Condvar,
    /// Called when this run has ended and must write nothing more.
    on_end: Mutex<Option<OnEnd>>,
    /// Held while a heartbeat is sent, and while this member says that it goes.
    saying: Mutex<()>,
    /// When the newest heartbeat was sent that is written.
    heard: Mutex<Option<Instant>>,
    proposed: Mutex<Option<(Assignment, Instant)>>,
    /// Incarnations that this one began to fence as their heir.
    inherited: Mutex<BTreeSet<Arc<str>>>,
}

/// Joins; returns when an own heartbeat was read back.
pub(crate) fn join(
    board: &Arc<Board>,
    join: Join,
    on_end: OnEnd,
) -> Result<Arc<dyn Cluster>, OpenError> {
    join.check()?;
    let settings = board.settings();
    let joined = Arc::new(Joined {
        newest: Mutex::default(),
        changed: Condvar::new(),
        on_end: Mutex::new(Some(on_end)),
        saying: Mutex::new(()),
        heard: Mutex::default(),
        proposed: Mutex::default(),
        inherited: Mutex::default(),
    });
    {
        let mut slot = board
            .joined
            .lock()
            .expect("no holder of the membership panics");
        if slot.is_some() {
            return Err(OpenError::Settings(
                "this log joined already; a run that ended joins anew by opening the log again"
                    .into(),
            ));
        }
        let mut view = board.view();
        let (has, asked) = (view.assignment().partitions(), join.partitions);
        if has != 0 && has != usize::from(asked) {
            return Err(OpenError::Settings(format!(
                "the instances of this log share {has} partitions, and this one was told {asked}; a \
                 log's partitions never change"
            )));
        }
        view.join(Part {
            address: join.address.into(),
            partitions: asked,
            spread: join.spread.into_iter().map(Arc::from).collect(),
            silent_after: settings.silent_after(),
            warms_up: join.warms_up,
            release_timeout: settings.release_timeout,
        });
        *slot = Some(Arc::clone(&joined));
    }
    let (beating, speaker) = (Arc::downgrade(board), Arc::clone(&joined));
    let thread = std::thread::Builder::new()
        .name("kafka-heartbeat".into())
        .spawn(move || beat(&beating, &speaker));
    if let Err(error) = thread {
        return Err(OpenError::Cluster(format!(
            "a thread could not be started: {error}"
        )));
    }
    let patience = settings.request_timeout;
    if !board.wait_until(patience, |view| view.is_heard() || view.ended().is_some()) {
        // The heartbeats end with it.
        board.view().end(Ended::Left);
        return Err(OpenError::Cluster(format!(
            "an own heartbeat was not read back within {patience:?}"
        )));
    }
    joined.look(board);
    info!(incarnation = &**board.me(), "joined");
    Ok(Arc::new(Membered {
        board: Arc::clone(board),
        joined,
    }))
}

/// The thread that says at even times that this member lives, one heartbeat at a time.
fn beat(board: &Weak<Board>, joined: &Joined) {
    let mut on_way: Option<(Sent, Instant)> = None;
    let mut last: Option<Instant> = None;
    loop {
        let Some(board) = board.upgrade() else { return };
        if board.is_stopped() {
            return;
        }
        let every = KafkaSettings::HEARTBEAT;
        if let Some((sent, at)) = &on_way
            && let Some(is_written) = sent.is_written()
        {
            if is_written {
                let mut heard = joined.heard.lock();
                *heard.as_deref_mut().expect("no holder of a time panics") = Some(*at);
            }
            on_way = None;
        }
        let due = last.map_or(Duration::ZERO, |last| every.saturating_sub(last.elapsed()));
        if due.is_zero() && on_way.is_none() {
            let now = Instant::now();
            last = Some(now);
            let _saying = joined.saying.lock().expect("no holder of the voice panics");
            let note = {
                let view = board.view();
                if view.ended().is_some() {
                    return;
                }
                let alive = view.part().map(|part| Alive {
                    incarnation: Arc::clone(board.me()),
                    address: Arc::clone(&part.address),
                    warms_up: part.warms_up,
                });
                Note::Beat(name_of(board.me()).into(), alive)
            };
            match board.send(&[note]) {
                Ok(sent) => on_way = Some((sent, now)),
                Err(why) => warn!(why, "a heartbeat was not sent"),
            }
        }
        drop(board);
        // While one is on its way it is looked soon whether it is written: reads rest on that.
        let is_idle = on_way.is_none() && !due.is_zero();
        std::thread::sleep(if is_idle { due } else { LOOK });
    }
}

impl Joined {
    /// Does what the newest records ask for. On the thread that reads them.
    pub(crate) fn look(&self, board: &Arc<Board>) {
        let (membership, proposal, inherited) = {
            let view = board.view();
            (view.membership(0), view.proposal(), view.inherited_from())
        };
        let ended = membership.ended;
        self.tell(membership);
        if let Some(why) = ended.filter(|why| *why != Ended::Left) {
            let on_end = self
                .on_end
                .lock()
                .expect("no holder of the end panics")
                .take();
            if let Some(on_end) = on_end {
                warn!(incarnation = &**board.me(), ?why, "this run has ended");
                on_end(why);
            }
        }
        if let Some(proposal) = proposal {
            self.propose(board, proposal);
        }
        self.inherit(board, inherited);
    }

    fn tell(&self, membership: Membership) {
        let mut newest = self
            .newest
            .lock()
            .expect("no holder of the membership panics");
        let version = newest.version;
        if (Membership {
            version,
            ..membership.clone()
        }) == **newest
            && version > 0
        {
            return;
        }
        *newest = Arc::new(Membership {
            version: version + 1,
            ..membership
        });
        drop(newest);
        self.changed.notify_all();
    }

    fn propose(&self, board: &Board, proposal: Assignment) {
        let mut proposed = self
            .proposed
            .lock()
            .expect("no holder of the proposal panics");
        let is_on_way = proposed.as_ref().is_some_and(|(assignment, since)| {
            *assignment == proposal && since.elapsed() < PROPOSAL_PATIENCE
        });
        if is_on_way {
            return;
        }
        let members: Vec<_> = proposal.members.keys().map(|run| &**run).collect();
        info!(?members, "assigning partitions anew");
        // Not waited for: this thread reads it.
        match board.send(&[Note::Assign(proposal.clone())]) {
            Ok(_) => *proposed = Some((proposal, Instant::now())),
            Err(why) => warn!(why, "an assignment was not sent"),
        }
    }

    /// Fences those that are dead before anybody claims what they had: what they left open may hold
    /// the readers of partitions that they never owned.
    fn inherit(&self, board: &Arc<Board>, dead: BTreeSet<Arc<str>>) {
        let mut begun = self
            .inherited
            .lock()
            .expect("no holder of the heirs panics");
        let new: BTreeSet<_> = dead.difference(&begun).cloned().collect();
        // What is not dead any more is over.
        *begun = dead;
        drop(begun);
        if new.is_empty() {
            return;
        }
        let board = Arc::clone(board);
        let thread = std::thread::Builder::new().name("kafka-heir".into());
        let fence = move || {
            if let Err(why) = board.fence(&new) {
                warn!(why, "whoever claims next fences again");
            }
        };
        if let Err(error) = thread.spawn(fence) {
            warn!(%error, "a thread could not be started");
        }
    }
}

/// A member's view of its cluster.
struct Membered {
    board: Arc<Board>,
    joined: Arc<Joined>,
}

impl fmt::Debug for Membered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("incarnation", self.board.me())
            .field("membership", &self.membership())
            .finish()
    }
}

impl Cluster for Membered {
    fn membership(&self) -> Arc<Membership> {
        let newest = self.joined.newest.lock();
        Arc::clone(&newest.expect("no holder of the membership panics"))
    }

    fn wait(&self, seen: u64, patience: Duration) -> Arc<Membership> {
        let newest = self.joined.newest.lock();
        let newest = newest.expect("no holder of the membership panics");
        let waited = self
            .joined
            .changed
            .wait_timeout_while(newest, patience, |newest| newest.version == seen);
        let (newest, _) = waited.expect("no holder of the membership panics");
        Arc::clone(&newest)
    }

    /// The others give it up once they have written a session's heartbeats behind the last one of this
    /// member, of which the first may have come at once.
    fn unheard(&self) -> Option<Duration> {
        let settings = self.board.settings();
        let lease = KafkaSettings::HEARTBEAT * settings.silent_after().saturating_sub(1);
        let heard = self.joined.heard.lock();
        let heard = heard.expect("no holder of a time panics");
        let age = heard.map_or(Duration::MAX, |at| at.elapsed());
        (age >= lease).then_some(age)
    }

    fn take_part(&self) {
        // The next heartbeat says it.
        self.board.view().take_part();
        self.joined.look(&self.board);
    }

    fn leave(&self) -> Result<(), String> {
        let sent = {
            let saying = self.joined.saying.lock();
            let _saying = saying.expect("no holder of the voice panics");
            let mut view = self.board.view();
            if view.ended().is_some() {
                // The heartbeats of that name are another run's, or nobody hears them any more.
                return Ok(());
            }
            view.end(Ended::Left);
            drop(view);
            let name = name_of(self.board.me()).into();
            self.board.send(&[Note::Beat(name, None)])
        };
        self.joined.look(&self.board);
        let topic = self.board.settings().cluster();
        let told = sent.and_then(Sent::delivered);
        told.map(|_| ())
            .map_err(|why| format!("the others were not told: {topic}: {why}"))
    }
}
