use super::*;

const SILENT: u32 = 5;

fn part() -> Part {
    Part {
        address: "host:1".into(),
        partitions: 4,
        spread: ["task".into()].into(),
        silent_after: SILENT,
    }
}

/// Folds notes at consecutive offsets.
struct Story(View);

impl Story {
    fn of(me: &str) -> Self {
        let mut story = Self(View::new(&me.into()));
        story.0.join(part());
        story
    }

    fn then(&mut self, note: Note) -> &mut Self {
        self.0.fold(self.0.next(), Some(note));
        self
    }

    fn opened(&mut self, run: &str) -> &mut Self {
        self.then(Note::Newest {
            name: name_of(run).into(),
            incarnation: run.into(),
        })
    }

    fn beat(&mut self, run: &str) -> &mut Self {
        let beat = Some((run.into(), "host:1".into()));
        self.then(Note::Beat(name_of(run).into(), beat))
    }

    fn propose(&mut self) -> Vec<String> {
        let proposal = self.0.proposal().expect("it proposes");
        let members = proposal.members.keys().map(ToString::to_string).collect();
        self.then(Note::Assign(proposal));
        members
    }

    fn claim(&mut self, owner: &str, run: &str, number: u64, stands: bool) -> Offset {
        let claim = Claim {
            owner: owner.into(),
            incarnation: run.into(),
            number,
        };
        self.then(Note::Claim(claim, stands));
        self.0.next() - 1
    }
}

#[test]
fn who_leaves_is_waited_for_and_who_is_silent_is_inherited_from() {
    let leave = |story: &mut Story| {
        story.then(Note::Beat("b".into(), None));
    };
    let silent = |story: &mut Story| {
        for _ in 0..SILENT {
            story.beat("a.1");
        }
    };
    let goes: [(&dyn Fn(&mut Story), bool); 2] = [(&leave, true), (&silent, false)];
    for (go, is_polite) in goes {
        let mut a = Story::of("a.1");
        a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
        a.propose();
        a.claim("task/2", "b.1", 1, true);
        assert!(a.0.inherited_from().is_empty());
        go(&mut a);
        assert_eq!(a.propose(), ["a.1"]);
        assert_eq!(a.0.is_held_by_member("task/2"), is_polite);
        assert_eq!(a.0.inherited_from().is_empty(), is_polite);
        // It has come again, so the run before it has ended.
        a.opened("b.2");
        assert!(!a.0.is_held_by_member("task/2"));
        assert!(!a.0.inherited_from().is_empty());
    }
}

#[test]
fn silence_is_counted_in_own_heartbeats_only() {
    let mut a = Story::of("a.1");
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    assert_eq!(a.propose(), ["a.1", "b.1"]);
    assert_eq!(a.0.proposal(), None, "nothing changed");
    for _ in 0..SILENT - 1 {
        a.beat("a.1");
    }
    assert_eq!(a.0.proposal(), None);
    a.beat("b.1");
    for _ in 0..SILENT - 1 {
        a.beat("a.1");
    }
    assert_eq!(a.0.proposal(), None, "it was heard in between");
    a.beat("a.1");
    assert_eq!(a.propose(), ["a.1"]);
    // It wakes and beats again: it has ended all the same.
    a.beat("b.1");
    assert_eq!(a.0.proposal(), None);
    a.opened("b.2").beat("b.2");
    assert_eq!(a.propose(), ["a.1", "b.2"]);
}

#[test]
fn a_seal_ends_whoever_joined_before_or_after_it() {
    let mut a = Story::of("a.1");
    a.opened("a.1").beat("a.1");
    a.propose();
    a.then(Note::Sealed(true));
    assert_eq!(a.0.membership(1).ended, Some(Ended::Silent));
    assert!(!a.0.is_mine(0));
    let mut late = View::new(&"b.1".into());
    late.fold(0, Some(Note::Sealed(true)));
    assert_eq!(late.ended(), None, "who copies the log does not join");
    late.join(part());
    assert_eq!(late.ended(), Some(Ended::Silent));
    let mut later = View::new(&"c.1".into());
    later.fold(0, Some(Note::Sealed(true)));
    later.fold(1, Some(Note::Sealed(false)));
    later.join(part());
    assert_eq!(later.ended(), None);
}

#[test]
fn only_the_smallest_live_name_proposes() {
    let mut b = Story::of("b.1");
    b.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    assert_eq!(b.0.proposal(), None);
    for _ in 0..SILENT {
        b.beat("b.1");
    }
    assert_eq!(b.propose(), ["b.1"]);
}

#[test]
fn whoever_an_assignment_drops_has_ended_and_proposes_nothing() {
    let mut a = Story::of("a.1");
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    a.propose();
    let without = Assignment {
        members: [("b.1".into(), vec![0, 1, 2, 3])].into(),
    };
    a.then(Note::Assign(without));
    assert_eq!(a.0.membership(1).ended, Some(Ended::Silent));
    assert_eq!(a.0.membership(1).me, None);
    a.beat("a.1");
    assert_eq!(a.0.proposal(), None);
    // In an assignment again, it stays ended.
    let again = Assignment {
        members: [("a.1".into(), vec![0, 1]), ("b.1".into(), vec![2, 3])].into(),
    };
    a.then(Note::Assign(again));
    assert!(!a.0.is_mine(0));
    assert_eq!(a.0.membership(1).ended, Some(Ended::Silent));
}

#[test]
fn a_newer_run_of_the_name_replaces_this_one() {
    let mut a = Story::of("a.1");
    a.opened("a.1").beat("a.1");
    a.propose();
    assert!(a.0.is_mine(3));
    a.opened("a.2");
    assert_eq!(a.0.membership(1).ended, Some(Ended::Replaced));
    a.beat("a.2").beat("a.1");
    let mut b = Story::of("b.1");
    b.opened("a.1").opened("a.2").beat("a.2").beat("a.1");
    let members = b.0.membership(1).members;
    assert_eq!(
        &*members[0].incarnation, "a.2",
        "the older one is not heard"
    );
}

#[test]
fn a_claim_stands_until_a_higher_one_or_its_own_end() {
    let mut a = Story::of("a.1");
    let first = a.claim("task/0", "a.1", 1, true);
    assert!(a.0.standing("task/0", first).is_some());
    let other = a.claim("task/0", "b.1", 1, true);
    assert!(a.0.standing("task/0", first).is_none());
    a.claim("task/0", "b.1", 1, false);
    assert!(a.0.standing("task/0", first).is_some(), "it was taken back");
    let again = a.claim("task/0", "a.1", 2, true);
    assert!(again > other);
    // Whoever fenced the first claim empties that one.
    a.claim("task/0", "a.1", 1, false);
    assert!(a.0.standing("task/0", first).is_none());
    assert!(a.0.standing("task/0", again).is_some());
}

#[test]
fn holders_are_who_claimed_last_and_heirs_know_from_whom() {
    let mut a = Story::of("a.1");
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    a.propose();
    a.claim("task/0", "b.1", 1, true);
    a.claim("task/2", "dead.1", 1, true);
    a.claim("other/0", "a.1", 1, true);
    let membership = a.0.membership(1);
    assert_eq!(membership.places[0].assigned, Some(0));
    assert_eq!(membership.places[0].holder, Some(1));
    assert_eq!(membership.places[2].holder, None);
    assert_eq!(a.0.inherited_from(), ["dead.1".into()].into());
    assert!(a.0.is_held_by_member("task/0") && !a.0.is_held_by_member("task/2"));
    a.claim("task/0", "a.1", 2, true);
    assert_eq!(a.0.membership(1).places[0].holder, Some(0));
    a.claim("task/0", "a.1", 2, false);
    assert_eq!(a.0.membership(1).places[0].holder, Some(1));
}

#[test]
fn an_assignment_of_another_number_of_partitions_is_not_ours() {
    let mut a = Story::of("a.1");
    a.opened("a.1").beat("a.1");
    a.propose();
    let other = Assignment {
        members: [("x.1".into(), vec![0])].into(),
    };
    a.then(Note::Assign(other));
    assert!(a.0.is_mine(0));
}
