//! The thread that moves lanes: claims, reads, appends, and what becomes of appends.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use onhand_log::{
    Append, AppendError, Consumed, Ending, Log, Offset, ReadError, RecordBatch, Token,
    TopicPartition, View,
};

use super::{Ended, Made, Shared, Wish, Work, WorkError};

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;

/// Appends of one lane whose ending is not known: enough to overlap making one with writing others.
const APPENDS_MAX: usize = 4;

/// Bytes of appends of all lanes whose ending is not known; above it no lane reads. One that is larger
/// goes when nothing else is on its way.
const IN_FLIGHT_BYTES: usize = 16 << 20;

/// The thread never sleeps longer, so that it tries again what nothing announces.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// The pause before something that failed is tried again; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often a lane that is behind looks how far.
const LOOK: Duration = Duration::from_secs(1);

/// How long a position stays behind records of which nothing is made. Whoever goes on from it passes over
/// them once more.
const PASSED_MAX: Duration = Duration::from_secs(1);

/// After a turn in which nothing was made of anything: where that is the rule, one look at many records costs
/// less than many looks.
const REST: Duration = Duration::from_millis(20);

/// A partition in the hands of its owner.
struct Lane {
    at: TopicPartition,
    standing: Standing,
    /// The newest claim, also where nothing more is done under it: it is given up at the close.
    token: Option<Token>,
    /// Appends whose ending is not known.
    appends: usize,
    /// Nothing is tried before.
    not_before: Option<Instant>,
    pause: Duration,
    lag: u64,
    looked: Option<Instant>,
    /// Records behind the position that is written, of which nothing was to be made.
    passed: u64,
    /// Since when it is not where the lane is.
    passed_since: Option<Instant>,
}

enum Standing {
    /// To be claimed.
    Unclaimed,
    Running {
        next: Offset,
    },
    /// An append did not end well: claimed again when all have ended.
    Lost,
    /// Nothing more is done.
    Stopped,
}

/// What the thread owns.
pub(super) struct Moving {
    log: Arc<dyn Log>,
    work: Arc<dyn Work>,
    shared: Arc<Shared>,
    lanes: BTreeMap<u16, Lane>,
    /// Bytes whose ending is not known.
    in_flight: usize,
    /// Something was appended in this turn.
    appended: bool,
    /// Something was passed over in this turn.
    passed: bool,
}

/// Says that the thread does nothing more, however it ends.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.lock().gone = true;
        self.0.closed.notify_all();
    }
}

impl Moving {
    pub(super) fn new(log: Arc<dyn Log>, work: Arc<dyn Work>, shared: Arc<Shared>) -> Self {
        Self {
            log,
            work,
            shared,
            lanes: BTreeMap::new(),
            in_flight: 0,
            appended: false,
            passed: false,
        }
    }

    pub(super) fn run(mut self) {
        let _gone = Gone(Arc::clone(&self.shared));
        let mut quiet = true;
        while let Some((wishes, ended, timed_out)) = self.wait(quiet) {
            for one in &ended {
                self.end(one);
            }
            self.follow(&wishes);
            let partitions: Vec<u16> = self.lanes.keys().copied().collect();
            // All claims first: on some engines each makes what is known of all partitions stale.
            for partition in &partitions {
                self.claim(*partition);
            }
            let mut moved = false;
            for partition in &partitions {
                moved |= self.step(*partition);
            }
            let closing = wishes.values().any(|wish| *wish == Wish::Close);
            let urgent = self.work.pace().is_zero();
            let appended = std::mem::take(&mut self.appended);
            let passed = std::mem::take(&mut self.passed);
            if appended && urgent || self.in_flight > 0 && (timed_out || closing) {
                self.log.flush();
            }
            quiet = !moved;
            self.report();
            if appended && !urgent {
                std::thread::sleep(self.work.pace());
            } else if passed && !appended {
                std::thread::sleep(REST);
            }
        }
    }

    /// Waits for something to do, unless the last turn did something. `None`: stop.
    fn wait(&mut self, quiet: bool) -> Option<(BTreeMap<u16, Wish>, Vec<Ended>, bool)> {
        // A pause that is over is so for one turn: its lane may be one that nothing can be done with now.
        let mut timed_out = false;
        for lane in self.lanes.values_mut() {
            timed_out |= lane.not_before.is_some() && !lane.is_pausing();
        }
        let pauses = self.lanes.values().filter_map(|lane| lane.not_before);
        let due = pauses.min();
        let mut state = self.shared.lock();
        let until = Instant::now() + SLEEP_MAX;
        let until = due.map_or(until, |due| due.min(until));
        while quiet && !timed_out && !state.moved && !state.stop && state.ended.is_empty() {
            if self.has_news(&state.wishes) {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                timed_out = true;
                break;
            }
            let woken = self.shared.wake.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop {
            return None;
        }
        state.moved = false;
        Some((
            state.wishes.clone(),
            std::mem::take(&mut state.ended),
            timed_out,
        ))
    }

    fn has_news(&self, wishes: &BTreeMap<u16, Wish>) -> bool {
        wishes.iter().any(|(partition, wish)| {
            let lane = self.lanes.get(partition);
            match wish {
                Wish::Open => lane.is_none(),
                // One with appends on their way is closed when they have ended.
                Wish::Close => lane.is_none_or(|lane| lane.appends == 0),
            }
        })
    }

    /// What became of an append.
    fn end(&mut self, one: &Ended) {
        self.in_flight = self.in_flight.saturating_sub(one.bytes);
        let Some(lane) = self.lanes.get_mut(&one.partition) else {
            return;
        };
        lane.appends = lane.appends.saturating_sub(1);
        match one.ending {
            Ending::Durable => {
                lane.pause = PAUSE_MIN;
                let mut state = self.shared.lock();
                state.figures.records += one.records;
                state.figures.aside += one.aside;
            }
            Ending::Fenced => self.stop_lane(one.partition, "its name is somebody else's now"),
            // Those behind the first that was lost end so too.
            Ending::Aborted | Ending::Unknown if matches!(lane.standing, Standing::Lost) => {}
            Ending::Aborted | Ending::Unknown => {
                if !matches!(lane.standing, Standing::Stopped) {
                    lane.standing = Standing::Lost;
                    let why = format!("an append ended {:?}", one.ending);
                    self.pause(one.partition, &why);
                }
            }
        }
    }

    /// Opens and closes what is wanted.
    fn follow(&mut self, wishes: &BTreeMap<u16, Wish>) {
        for (partition, wish) in wishes {
            match wish {
                Wish::Open if !self.lanes.contains_key(partition) => {
                    let at = TopicPartition {
                        topic: self.work.input(),
                        partition: *partition,
                    };
                    self.lanes.insert(*partition, Lane::new(at));
                }
                Wish::Open => {}
                Wish::Close => self.close(*partition),
            }
        }
    }

    fn close(&mut self, partition: u16) {
        let lane = self.lanes.get(&partition);
        if lane.is_some_and(|lane| lane.appends > 0) {
            // Nothing more is read; it is closed when the last append has ended.
            return;
        }
        let token = self.lanes.remove(&partition).and_then(|lane| lane.token);
        if let Some(token) = token
            && let Err(error) = self.log.give_up(&token)
        {
            // Whoever claims it next has to take it from us.
            tracing::warn!(owner = &*token.owner, %error, "a name was not given up");
        }
        self.shared.lock().wishes.remove(&partition);
        self.shared.closed.notify_all();
    }

    /// Claims a lane's name where that is due, and finds out where it goes on.
    fn claim(&mut self, partition: u16) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        let unclaimed = match lane.standing {
            Standing::Unclaimed => true,
            Standing::Lost => lane.appends == 0,
            Standing::Running { .. } | Standing::Stopped => false,
        };
        if !unclaimed || lane.is_pausing() {
            return;
        }
        let at = lane.at;
        let owner = format!("{}/{partition}", self.work.name());
        let claimed = self.log.claim(&owner).and_then(|token| {
            let unread = |error: ReadError| AppendError::Unreachable(error.to_string());
            let consumed = self.log.consumed(&owner, at).map_err(unread)?;
            // Without one nothing was taken yet: what is gone already was missed, as reading finds out.
            Ok((token, consumed.unwrap_or_default()))
        });
        match claimed {
            Ok((token, next)) => {
                tracing::debug!(owner, next, "goes on");
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.standing = Standing::Running { next };
                    lane.token = Some(token);
                    lane.not_before = None;
                    (lane.passed, lane.passed_since) = (0, None);
                }
            }
            // Not assigned to this instance at this moment, as happens while partitions move: the lane is closed
            // soon, or it is again.
            Err(AppendError::Fenced { .. }) => self.wait_a_while(partition),
            Err(error @ AppendError::Unreachable(_)) => self.pause(partition, &error.to_string()),
            Err(error) => self.stop_lane(partition, &error.to_string()),
        }
    }

    /// Reads on in one lane and appends what is made of it. Whether it came further.
    fn step(&mut self, partition: u16) -> bool {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return false;
        };
        let Standing::Running { next } = lane.standing else {
            return false;
        };
        let is_full = lane.appends >= APPENDS_MAX || self.in_flight >= IN_FLIGHT_BYTES;
        let closing = self.shared.lock().wishes.get(&partition) != Some(&Wish::Open);
        if is_full || closing || lane.is_pausing() {
            return false;
        }
        let from = next;
        let fetch = match self.log.read(lane.at, from, READ_BYTES, self.work.view()) {
            Ok(fetch) => fetch,
            Err(error) => {
                self.unread(partition, &error);
                return false;
            }
        };
        if fetch.next == from {
            lane.lag = 0;
            if lane.is_position_due() {
                let made = Made {
                    next: from,
                    ..Made::default()
                };
                return self.put(partition, made);
            }
            return false;
        }
        lane.look(self.log.as_ref(), from, self.work.view());
        let mut moved = false;
        while let Some(lane) = self.lanes.get_mut(&partition)
            && let Standing::Running { next } = &mut lane.standing
        {
            let from = *next;
            let last = fetch.batches.last();
            if last.is_none_or(|batch| batch.next_offset() <= from) {
                // Behind the last record there is nothing that has an effect.
                *next = from.max(fetch.next);
                return true;
            }
            let is_full = lane.appends >= APPENDS_MAX || self.in_flight >= IN_FLIGHT_BYTES;
            if is_full || !self.append(partition, &fetch.batches, from) {
                break;
            }
            moved = true;
        }
        moved
    }

    /// One append of what follows `from`. Whether it is on its way.
    fn append(&mut self, partition: u16, batches: &[RecordBatch], from: Offset) -> bool {
        let work = &self.work;
        // Nothing is kept between two takes that a panic could leave half changed.
        let made = catch_unwind(AssertUnwindSafe(|| work.take(partition, batches, from)));
        let made = match made {
            Ok(Ok(made)) => made,
            Ok(Err(WorkError::Passing(why))) => {
                self.pause(partition, &why);
                return false;
            }
            Ok(Err(WorkError::Lasting(why))) => {
                self.stop_lane(partition, &why);
                return false;
            }
            Err(_) => {
                let why = format!("reading on from offset {from} panicked");
                self.stop_lane(partition, &why);
                return false;
            }
        };
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return false;
        };
        if made.next <= from {
            let why = format!("nothing was made of what follows offset {from}");
            self.stop_lane(partition, &why);
            return false;
        }
        if made.batches.is_empty() && !lane.is_position_due() {
            lane.standing = Standing::Running { next: made.next };
            self.passed = true;
            lane.passed += made.records;
            lane.passed_since.get_or_insert_with(Instant::now);
            return true;
        }
        self.put(partition, made)
    }

    /// Appends it, and the position behind it. Whether it is on its way.
    fn put(&mut self, partition: u16, made: Made) -> bool {
        let work = &self.work;
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return false;
        };
        let (Standing::Running { next }, Some(token)) = (&mut lane.standing, &lane.token) else {
            return false;
        };
        let records = made.records + lane.passed;
        let bytes = made.batches.iter().map(|(_, b)| b.bytes().len()).sum();
        let (shared, aside) = (Arc::clone(&self.shared), made.aside);
        let on_end = move |ending| {
            shared.lock().ended.push(Ended {
                partition,
                bytes,
                records,
                aside,
                ending,
            });
            shared.wake.notify_all();
        };
        let append = Append {
            purpose: work.purpose(),
            batches: made.batches,
            consumed: vec![Consumed {
                at: lane.at,
                next: made.next,
            }],
            on_end: Some(Box::new(on_end)),
        };
        match self.log.append(token, append) {
            Ok(()) => {
                *next = made.next;
                lane.appends += 1;
                (lane.passed, lane.passed_since) = (0, None);
                self.in_flight += bytes;
                self.appended = true;
                true
            }
            Err(error @ (AppendError::NoSpace | AppendError::Unreachable(_))) => {
                self.pause(partition, &error.to_string());
                false
            }
            Err(error) => {
                self.stop_lane(partition, &error.to_string());
                false
            }
        }
    }

    /// What lay between those offsets was deleted before it was read. Not every offset holds a record.
    fn miss(&self, partition: u16, from: Offset, to: Offset) {
        let missed = to.abs_diff(from);
        let name = self.work.name();
        tracing::error!(
            name,
            partition,
            from,
            to,
            missed,
            "up to so many records were deleted before they were read and had no effect; going on with \
             those that are left"
        );
        let mut state = self.shared.lock();
        state.figures.missed += missed;
        state.moved = true;
    }

    /// A read that failed.
    fn unread(&mut self, partition: u16, error: &ReadError) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        match error {
            ReadError::OutOfRange { asked, start, .. } if asked < start => {
                if let Standing::Running { next } = &mut lane.standing {
                    *next = *start;
                }
                self.miss(partition, *asked, *start);
            }
            // Beyond the end: the topic was made anew, or the brokers disagree for a moment.
            error => self.pause(partition, &error.to_string()),
        }
    }

    /// After trouble: tries again later.
    fn pause(&mut self, partition: u16, why: &str) {
        tracing::warn!(
            name = self.work.name(),
            partition,
            why,
            "is tried again soon"
        );
        self.wait_a_while(partition);
    }

    fn wait_a_while(&mut self, partition: u16) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.not_before = Some(Instant::now() + lane.pause);
        lane.pause = (lane.pause * 2).min(PAUSE_MAX);
        self.shared.lock().figures.retries += 1;
    }

    fn stop_lane(&mut self, partition: u16, why: &str) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        if !matches!(lane.standing, Standing::Stopped) {
            tracing::error!(name = self.work.name(), partition, why, "stopped");
        }
        lane.standing = Standing::Stopped;
        lane.not_before = None;
    }

    fn report(&self) {
        let lanes = self.lanes.values();
        let stopped = lanes.clone().filter(|lane| lane.is_stopped()).count() as u64;
        let mut state = self.shared.lock();
        state.figures.open = lanes.len() as u64;
        state.figures.stopped = stopped;
        state.figures.lag = lanes.map(|lane| lane.lag).sum();
    }
}

impl Lane {
    fn new(at: TopicPartition) -> Self {
        Self {
            at,
            standing: Standing::Unclaimed,
            token: None,
            appends: 0,
            not_before: None,
            pause: PAUSE_MIN,
            lag: 0,
            looked: None,
            passed: 0,
            passed_since: None,
        }
    }

    fn is_pausing(&mut self) -> bool {
        let pausing = self.not_before.is_some_and(|until| Instant::now() < until);
        if !pausing {
            self.not_before = None;
        }
        pausing
    }

    /// Whether it is time to write how far it is, though there is nothing else to write.
    fn is_position_due(&self) -> bool {
        let since = self.passed_since;
        since.is_some_and(|since| since.elapsed() >= PASSED_MAX)
    }

    fn is_stopped(&self) -> bool {
        matches!(self.standing, Standing::Stopped)
    }

    /// Looks how far it is behind, where the last look is not fresh.
    fn look(&mut self, log: &dyn Log, from: Offset, view: View) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        if let Ok(bounds) = log.bounds(self.at, view) {
            self.lag = bounds.end.saturating_sub(from).unsigned_abs();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use onhand_log::memory::MemoryLog;
    use onhand_log::{Purpose, TopicId};

    use super::*;

    struct Idle;

    impl Work for Idle {
        fn name(&self) -> &'static str {
            "idle"
        }
        fn input(&self) -> TopicId {
            TopicId(0)
        }
        fn view(&self) -> View {
            View::Durable
        }
        fn purpose(&self) -> Purpose {
            Purpose::Intake
        }
        fn pace(&self) -> Duration {
            Duration::ZERO
        }
        fn take(&self, _: u16, _: &[RecordBatch], _: Offset) -> Result<Made, WorkError> {
            Ok(Made::default())
        }
    }

    #[test]
    fn a_pause_that_is_over_wakes_the_thread_once_whatever_its_lane_waits_for() {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            closed: Condvar::new(),
        });
        let mut moving = Moving::new(Arc::new(MemoryLog::new()), Arc::new(Idle), shared);
        let mut lane = Lane::new(TopicPartition {
            topic: TopicId(0),
            partition: 0,
        });
        // Claimed again when its last append has ended.
        (lane.standing, lane.appends) = (Standing::Lost, 1);
        lane.not_before = Some(Instant::now());
        moving.lanes.insert(0, lane);
        assert!(matches!(moving.wait(true), Some((_, _, true))));
        assert_eq!(moving.lanes[&0].not_before, None);

        moving.lanes.get_mut(&0).unwrap().not_before = Some(Instant::now() + PAUSE_MAX);
        moving.stop_lane(0, "it is enough");
        assert_eq!(moving.lanes[&0].not_before, None);
    }
}
