use super::*;

const SILENT: u32 = 5;

fn part() -> Part {
    Part {
        address: "host:1".into(),
        partitions: 4,
        spread: ["task".into()].into(),
        silent_after: SILENT,
        warms_up: false,
        release_timeout: Duration::from_secs(600),
    }
}

/// Folds notes at consecutive offsets, and remembers them.
struct Story(View, Vec<Note>);

impl Story {
    fn of(me: &str) -> Self {
        let mut story = Self(View::new(&me.into()), Vec::new());
        story.0.join(part());
        story
    }

    /// Joins what was told so far, to warm up.
    fn warming(&self, me: &str) -> Self {
        let mut story = Self(View::new(&me.into()), Vec::new());
        story.hear(self);
        let warms_up = true;
        story.0.join(Part { warms_up, ..part() });
        story
    }

    /// Folds what another member has folded meanwhile.
    fn hear(&mut self, other: &Self) -> &mut Self {
        for note in other.1.iter().skip(self.1.len()) {
            self.then(note.clone());
        }
        self
    }

    fn then(&mut self, note: Note) -> &mut Self {
        self.1.push(note.clone());
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
        self.alive(run, false)
    }

    fn alive(&mut self, run: &str, warms_up: bool) -> &mut Self {
        let alive = Alive {
            incarnation: run.into(),
            address: "host:1".into(),
            warms_up,
        };
        self.then(Note::Beat(name_of(run).into(), Some(alive)))
    }

    fn coming(&self) -> Option<(Vec<u16>, bool)> {
        let warm_up = self.0.membership(1).warm_up?;
        Some((warm_up.coming.into_iter().collect(), warm_up.is_next))
    }

    fn owned(&self, run: &str) -> Vec<u16> {
        self.0
            .assignment()
            .members
            .get(run)
            .cloned()
            .unwrap_or_default()
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

#[test]
fn who_warms_up_is_given_what_it_prepared_for_once_it_takes_part() {
    let mut a = Story::of("a.1");
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    a.propose();
    a.opened("c.1").opened("d.1");
    let (mut c, mut d) = (a.warming("c.1"), a.warming("d.1"));
    a.alive("d.1", true).alive("c.1", true);
    assert_eq!(a.0.proposal(), None, "nothing is assigned to them yet");
    let (for_c, is_next) = c.hear(&a).coming().expect("it warms up");
    assert!(is_next && for_c.len() == 1, "{for_c:?}");
    assert_eq!(c.0.proposal(), None);
    // As if the one before it took part already.
    let (for_d, is_next) = d.hear(&a).coming().expect("it warms up");
    assert!(!is_next && for_d.len() == 1 && for_d != for_c, "{for_d:?}");
    let members = d.0.membership(1).members;
    let part: Vec<bool> = members.iter().map(|member| member.takes_part).collect();
    assert_eq!(part, [true, true, false, false]);

    c.0.take_part();
    assert_eq!(c.coming(), None);
    a.beat("c.1");
    assert_eq!(a.propose(), ["a.1", "b.1", "c.1"]);
    assert_eq!(a.owned("c.1"), for_c);
    assert_eq!(d.hear(&a).coming(), Some((for_d.clone(), true)));
    d.0.take_part();
    a.beat("d.1");
    a.propose();
    assert_eq!(a.owned("d.1"), for_d);
    assert_eq!(a.owned("c.1"), for_c, "and nothing else moves");
}

#[test]
fn nobody_warms_up_for_what_nobody_answers_for_meanwhile() {
    let mut a = Story::of("a.1");
    a.opened("a.1");
    // The first of all.
    assert_eq!(a.warming("a.1").coming(), None);
    a.beat("a.1");
    a.propose();
    // Again under its name: what it had stands still.
    a.opened("a.2");
    let mut again = a.warming("a.2");
    again.beat("a.2");
    assert_eq!(again.propose(), ["a.2"]);
    // The only other one falls silent.
    a.opened("c.1");
    let mut c = a.warming("c.1");
    c.alive("c.1", true);
    assert!(c.coming().is_some());
    for _ in 0..SILENT {
        c.alive("c.1", true);
    }
    assert_eq!(c.coming(), None);
    assert_eq!(c.0.proposal(), None, "the others do not know it yet");
    c.beat("c.1");
    assert_eq!(c.propose(), ["c.1"]);
}

/// Its heartbeat stays in the topic for ever.
#[test]
fn who_died_before_this_one_joined_is_assigned_nothing() {
    let mut b = Story::of("b.1");
    b.opened("z.1").opened("b.1").beat("z.1").beat("b.1");
    b.propose();
    for _ in 0..SILENT {
        b.beat("b.1");
    }
    assert_eq!(b.propose(), ["b.1"], "z is dropped");
    // Only the newest assignment is left of the topic.
    let mut a = Story(View::new(&"a.1".into()), Vec::new());
    let dropped = b.0.assignment().clone();
    a.opened("z.1").opened("b.1").beat("z.1").beat("b.1");
    a.then(Note::Assign(dropped)).opened("a.1");
    a.0.join(part());
    a.beat("a.1");
    assert_eq!(a.propose(), ["a.1", "b.1"]);
}

#[test]
fn of_two_that_begin_at_once_neither_leaves_the_other_out() {
    let mut a = Story::of("a.1");
    a.opened("a.1").beat("a.1");
    // It has read a heartbeat of the other, and no assignment yet.
    let mut b = Story(View::new(&"b.1".into()), Vec::new());
    b.hear(&a).opened("b.1");
    b.0.join(part());
    b.beat("b.1");
    assert_eq!(b.0.proposal(), None);
    b.beat("a.1");
    assert_eq!(b.0.proposal(), None, "the other one does it");
    for _ in 0..SILENT {
        b.beat("b.1");
    }
    assert_eq!(b.propose(), ["b.1"]);
}

#[test]
fn a_goodbye_that_was_an_earlier_runs_is_not_this_ones() {
    let mut a = Story::of("a.1");
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    a.propose();
    a.opened("b.2").beat("b.2");
    // Written by the run before, which had not read of this one.
    a.then(Note::Beat("b".into(), None)).beat("b.2");
    a.propose();
    a.claim("task/2", "b.2", 1, true);
    for _ in 0..SILENT {
        a.beat("a.1");
    }
    a.propose();
    assert!(
        !a.0.is_held_by_member("task/2"),
        "it is dead, and has not left"
    );
}

#[test]
fn who_said_that_it_goes_is_waited_for_a_while_only() {
    let mut a = Story(View::new(&"a.1".into()), Vec::new());
    let release_timeout = Duration::ZERO;
    a.0.join(Part {
        release_timeout,
        ..part()
    });
    a.opened("a.1").opened("b.1").beat("a.1").beat("b.1");
    a.propose();
    a.claim("task/2", "b.1", 1, true);
    a.then(Note::Beat("b".into(), None));
    a.propose();
    assert!(!a.0.is_held_by_member("task/2"));
    assert_eq!(a.0.inherited_from(), ["b.1".into()].into());
}
