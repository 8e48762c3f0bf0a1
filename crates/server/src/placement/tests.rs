use onhand_log::cluster::{Member, Place, WarmUp};

use super::*;

/// A membership that the test changes, and what was done for it, in order.
#[derive(Debug, Default)]
struct World {
    membership: Mutex<Arc<Membership>>,
    done: Mutex<Vec<String>>,
    /// Openings that fail before one succeeds.
    failures: Mutex<u32>,
    followed: Mutex<BTreeSet<u16>>,
    /// How old what is followed shows.
    level: Mutex<BTreeMap<u16, Duration>>,
}

impl World {
    fn assign(&self, partitions: &[u16]) {
        let mut membership = self.membership.lock().unwrap();
        let place = |partition| Place {
            assigned: partitions.contains(&partition).then_some(0),
            holder: None,
        };
        *membership = Arc::new(Membership {
            version: membership.version + 1,
            members: vec![Member {
                name: "a".into(),
                incarnation: "a.1".into(),
                address: "".into(),
                takes_part: true,
            }],
            me: Some(0),
            places: (0..3).map(place).collect(),
            warm_up: None,
            ended: None,
        });
    }

    /// It warms up beside another one for these partitions.
    fn warm_up(&self, coming: &[u16], is_next: bool) {
        self.assign_to(&["a", "b"], [Some(1); 3]);
        let mut membership = self.membership.lock().unwrap();
        let mut now = (**membership).clone();
        if let Some(me) = now.members.first_mut() {
            me.takes_part = false;
        }
        let coming = coming.iter().copied().collect();
        now.warm_up = Some(WarmUp { coming, is_next });
        *membership = Arc::new(now);
    }

    /// The partitions are these members' of a cluster whose first is this one.
    fn assign_to(&self, names: &[&str], assigned: [Option<usize>; 3]) {
        let mut membership = self.membership.lock().unwrap();
        let member = |name: &&str| Member {
            name: (*name).into(),
            incarnation: format!("{name}.1").into(),
            address: "".into(),
            takes_part: true,
        };
        let place = |assigned| Place {
            assigned,
            holder: None,
        };
        *membership = Arc::new(Membership {
            version: membership.version + 1,
            members: names.iter().map(member).collect(),
            me: Some(0),
            places: assigned.into_iter().map(place).collect(),
            warm_up: None,
            ended: None,
        });
    }

    fn did(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }

    fn done(&self) -> Vec<String> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }
}

impl Cluster for World {
    fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.lock().unwrap())
    }

    fn wait(&self, _seen: u64, _patience: Duration) -> Arc<Membership> {
        std::thread::sleep(Duration::from_millis(5));
        self.membership()
    }

    fn unheard(&self) -> Option<Duration> {
        None
    }

    fn take_part(&self) {
        self.did("take part".to_owned());
        let mut membership = self.membership.lock().unwrap();
        let mut now = (**membership).clone();
        now.version += 1;
        now.warm_up = None;
        *membership = Arc::new(now);
    }

    fn leave(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Partitions for Arc<World> {
    fn open(&self, partition: u16) -> Result<Option<String>, String> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err("not now".to_owned());
        }
        self.did(format!("open {partition}"));
        Ok(None)
    }

    fn close(&self, partition: u16) -> Result<(), String> {
        self.did(format!("close {partition}"));
        Ok(())
    }

    fn follow(&self, wanted: &BTreeSet<u16>, keep: &BTreeSet<u16>) -> Result<(), String> {
        let mut followed = self.followed.lock().unwrap();
        followed.retain(|partition| keep.contains(partition));
        followed.extend(wanted);
        self.did(format!("follow {followed:?}"));
        Ok(())
    }

    fn followed(&self) -> BTreeSet<u16> {
        self.followed.lock().unwrap().clone()
    }

    fn stale(&self, partition: u16) -> Option<Duration> {
        self.level.lock().unwrap().get(&partition).copied()
    }

    fn left(&self, _partition: u16) -> u64 {
        0
    }
}

impl Resident for Arc<World> {
    fn open(&self, partition: u16) {
        self.did(format!("begin {partition}"));
    }

    fn close(&self, partition: u16) {
        self.did(format!("end {partition}"));
    }
}

fn wait_until(placement: &Placement, is: impl Fn(Standing) -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is(placement.standing()) {
        assert!(Instant::now() < until, "{:?}", placement.standing());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_assigned_is_opened_before_its_residents_and_closed_after_them() {
    let world = Arc::new(World::default());
    *world.failures.lock().unwrap() = 1;
    let placement = Placement::new(
        Box::new(Arc::clone(&world)),
        vec![Arc::new(Arc::clone(&world))],
        Arc::<World>::clone(&world),
        Arc::default(),
        0,
        Duration::ZERO,
    );
    let mut running = Arc::clone(&placement).start(Vec::new()).unwrap();
    assert!(!placement.standing().is_settled, "it has not joined");
    world.assign(&[1]);
    // The first try fails, and is made again.
    wait_until(&placement, |standing| standing.owned == 1);
    assert!(placement.standing().is_settled);
    assert_eq!(world.done(), ["open 1", "begin 1"]);
    world.assign(&[2]);
    wait_until(&placement, |standing| {
        standing.moves == 3 && standing.is_settled
    });
    let done = world.done();
    let place = |what: &str| done.iter().position(|one| one == what).unwrap();
    assert!(place("end 1") < place("close 1"), "{done:?}");
    assert!(place("open 2") < place("begin 2"), "{done:?}");
    assert_eq!(done.len(), 4, "{done:?}");
    placement.close_all();
    assert_eq!(world.done(), ["end 2", "close 2"]);
    assert!(!placement.standing().is_settled);
    running.stop();
}

/// A standby is there until its partition is open here, and when its owner is being replaced.
#[test]
fn what_others_own_is_followed_and_kept_until_it_is_open_here() {
    let world = Arc::new(World::default());
    let placement = Placement::new(
        Box::new(Arc::clone(&world)),
        Vec::new(),
        Arc::<World>::clone(&world),
        Arc::default(),
        1,
        Duration::ZERO,
    );
    let mut running = Arc::clone(&placement).start(Vec::new()).unwrap();
    let followed = || world.followed.lock().unwrap().clone();
    let until_followed = |wanted: &[u16]| {
        let until = Instant::now() + Duration::from_secs(60);
        while followed() != wanted.iter().copied().collect() {
            assert!(Instant::now() < until, "{:?}", followed());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    world.assign_to(&["a", "b"], [Some(0), Some(1), Some(1)]);
    until_followed(&[1, 2]);
    // The other one is not heard any more: nobody knows yet who gets what it had.
    world.assign_to(&["a"], [Some(0), None, None]);
    std::thread::sleep(crate::standing_by::SETTLED + 3 * PATIENCE);
    assert_eq!(followed(), [1, 2].into());
    // Opening fails for a while.
    *world.failures.lock().unwrap() = 3;
    world.assign_to(&["a"], [Some(0), Some(0), Some(0)]);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!followed().is_empty(), "kept for the next try");
    wait_until(&placement, |standing| standing.owned == 3);
    // The double of the standbys does not notice that they were taken over.
    until_followed(&[]);
    running.stop();
}

fn warming(world: &Arc<World>, warm_up: Duration) -> Running {
    let placement = Placement::new(
        Box::new(Arc::clone(world)),
        Vec::new(),
        Arc::<World>::clone(world),
        Arc::default(),
        0,
        warm_up,
    );
    placement.start(Vec::new()).unwrap()
}

/// Waits until that was done, and nothing else.
fn until_done(world: &World, wanted: &[&str]) {
    let until = Instant::now() + Duration::from_secs(60);
    let done = || world.done.lock().unwrap().clone();
    while done().len() < wanted.len() {
        assert!(Instant::now() < until, "{:?}", done());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(2 * PATIENCE);
    assert_eq!(world.done(), wanted);
}

#[test]
fn an_instance_takes_part_once_all_that_is_coming_is_level_and_it_is_its_turn() {
    let world = Arc::new(World::default());
    world.warm_up(&[0, 2], false);
    let mut running = warming(&world, Duration::from_secs(600));
    until_done(&world, &["follow {0, 2}"]);
    assert!(!running.placement.standing().is_settled);
    let level = |partition, stale| world.level.lock().unwrap().insert(partition, stale);
    level(0, Duration::ZERO);
    level(2, 2 * LEVEL);
    std::thread::sleep(2 * PATIENCE);
    level(2, LEVEL);
    std::thread::sleep(2 * PATIENCE);
    assert_eq!(world.done(), [""; 0], "another one comes first");
    world.warm_up(&[0, 2], true);
    until_done(&world, &["take part"]);
    // What was followed for it is kept until it is open here, and let go of.
    world.assign_to(&["a", "b"], [Some(0), Some(1), Some(0)]);
    wait_until(&running.placement, |standing| standing.owned == 2);
    assert!(running.placement.standing().is_settled);
    let done = world.done();
    assert!(done.iter().all(|one| one.starts_with("open")), "{done:?}");
    // The double of the standbys does not notice that they were taken over.
    until_done(&world, &["follow {}"]);
    running.stop();
}

#[test]
fn an_instance_that_does_not_get_warm_takes_part_in_the_end() {
    let world = Arc::new(World::default());
    world.warm_up(&[1], false);
    let mut running = warming(&world, Duration::from_millis(300));
    until_done(&world, &["follow {1}", "take part"]);
    running.stop();
}
