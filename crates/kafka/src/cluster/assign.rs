//! Who shall own what, computed from the last assignment and the live members.

use std::collections::BTreeSet;
use std::sync::Arc;

use onhand_log::cluster::{has_room, heirs};

use crate::cluster::note::{Assignment, name_of};

/// The next assignment: as even as it can be, with as few partitions moved as that takes. A member
/// inherits what an earlier incarnation of its name had. What nobody has any more goes to its heirs,
/// in their order, since those may have followed it, as far as that stays even. `live` is not empty.
pub(crate) fn balance(
    before: &Assignment,
    live: &BTreeSet<Arc<str>>,
    partitions: u16,
) -> Assignment {
    let (count, total) = (live.len().max(1), usize::from(partitions));
    let (most, least) = (total.div_ceil(count), total / count);
    let runs: Vec<&Arc<str>> = live.iter().collect();
    let mut owned: Vec<Vec<u16>> = vec![Vec::new(); count];
    let place_of = |name: &str| runs.iter().position(|run| name_of(run) == name);
    let mut free: BTreeSet<u16> = (0..partitions).collect();
    for (run, owns) in &before.members {
        let Some(has) = place_of(name_of(run)).and_then(|place| owned.get_mut(place)) else {
            continue;
        };
        for partition in owns {
            if has.len() < most && free.remove(partition) {
                has.push(*partition);
            }
        }
    }
    let heirs = heirs_of(before, partitions);
    for partition in free {
        let counts: Vec<usize> = owned.iter().map(Vec::len).collect();
        let heirs = heirs.get(usize::from(partition)).into_iter().flatten();
        let mut heirs = heirs.filter_map(|name| place_of(name));
        let heir = heirs.find(|place| has_room(&counts, *place, total));
        let fewest = || (0..count).min_by_key(|place| counts.get(*place));
        let place = heir.or_else(fewest).unwrap_or(0);
        if let Some(has) = owned.get_mut(place) {
            has.push(partition);
        }
    }
    // Whoever joined with less than its share takes from those who have the most.
    while owned.iter().any(|has| has.len() < least) {
        let richest = owned.iter_mut().max_by_key(|has| has.len());
        let moved = richest.and_then(Vec::pop);
        let poorest = owned.iter_mut().min_by_key(|has| has.len());
        if let (Some(poorest), Some(moved)) = (poorest, moved) {
            poorest.push(moved);
        }
    }
    for has in &mut owned {
        has.sort_unstable();
    }
    let members = runs.into_iter().cloned().zip(owned);
    Assignment {
        members: members.collect(),
    }
}

/// By partition, the names of its heirs under an assignment.
fn heirs_of(assignment: &Assignment, partitions: u16) -> Vec<Vec<&str>> {
    let names: Vec<&str> = assignment.members.keys().map(|run| name_of(run)).collect();
    let mut assigned = vec![None; usize::from(partitions)];
    for (at, owned) in assignment.members.values().enumerate() {
        for partition in owned {
            if let Some(assigned) = assigned.get_mut(usize::from(*partition)) {
                *assigned = Some(at);
            }
        }
    }
    let heirs = heirs(&assigned, &names).into_iter();
    heirs
        .map(|heirs| {
            heirs
                .iter()
                .filter_map(|at| names.get(*at).copied())
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn moved(before: &Assignment, after: &Assignment, partitions: u16) -> usize {
        let moves = |p: &u16| before.of(*p) != after.of(*p);
        (0..partitions).filter(moves).count()
    }

    fn check(assignment: &Assignment, members: usize, partitions: u16) {
        let sizes: Vec<_> = assignment.members.values().map(Vec::len).collect();
        assert_eq!(sizes.len(), members);
        assert_eq!(sizes.iter().sum::<usize>(), usize::from(partitions));
        let (most, least) = (sizes.iter().max(), sizes.iter().min());
        assert!(most.unwrap() - least.unwrap() <= 1, "{sizes:?}");
        assert!((0..partitions).all(|p| assignment.of(p).is_some()));
    }

    #[test]
    fn it_is_even_and_moves_only_what_it_must() {
        let none = Assignment::default();
        let one = balance(&none, &runs(&["a.1"]), 16);
        check(&one, 1, 16);
        let two = balance(&one, &runs(&["a.1", "b.1"]), 16);
        check(&two, 2, 16);
        assert_eq!(moved(&one, &two, 16), 8);
        let three = balance(&two, &runs(&["a.1", "b.1", "c.1"]), 16);
        check(&three, 3, 16);
        assert_eq!(moved(&two, &three, 16), 5);
        let gone = balance(&three, &runs(&["a.1", "c.1"]), 16);
        check(&gone, 2, 16);
        assert_eq!(moved(&three, &gone, 16), three.members["b.1"].len());
    }

    #[test]
    fn a_restarted_instance_inherits_and_nothing_else_moves() {
        let before = balance(&Assignment::default(), &runs(&["a.1", "b.1", "c.1"]), 16);
        let after = balance(&before, &runs(&["a.1", "b.2", "c.1"]), 16);
        assert_eq!(before.members["b.1"], after.members["b.2"]);
        assert_eq!(moved(&before, &after, 16), before.members["b.1"].len());
        // All of them at once.
        let anew = balance(&before, &runs(&["a.9", "b.9", "c.9"]), 16);
        for (old, new) in [("a.1", "a.9"), ("b.1", "b.9"), ("c.1", "c.9")] {
            assert_eq!(before.members[old], anew.members[new]);
        }
    }

    #[test]
    fn more_members_than_partitions_leave_some_without() {
        let few = balance(&Assignment::default(), &runs(&["a.1", "b.1", "c.1"]), 2);
        check(&few, 3, 2);
    }

    /// By partition, the name of its first standby.
    fn first_standbys(assignment: &Assignment, partitions: u16) -> Vec<String> {
        let heirs = heirs_of(assignment, partitions).into_iter();
        heirs.map(|heirs| heirs[0].to_owned()).collect()
    }

    #[test]
    fn what_a_dead_member_had_goes_to_its_standbys() {
        let names = ["a.1", "b.1", "c.1", "d.1", "e.1"];
        for members in 2..=names.len() {
            for partitions in [3, 8, 16, 97] {
                let all = runs(&names[..members]);
                let before = balance(&Assignment::default(), &all, partitions);
                let standbys = first_standbys(&before, partitions);
                for dead in &all {
                    let mut live = all.clone();
                    live.remove(dead);
                    let after = balance(&before, &live, partitions);
                    check(&after, members - 1, partitions);
                    assert_eq!(
                        moved(&before, &after, partitions),
                        before.members[dead].len(),
                        "nothing else moves"
                    );
                    for partition in &before.members[dead] {
                        let heir = name_of(after.of(*partition).unwrap());
                        assert_eq!(heir, standbys[usize::from(*partition)]);
                    }
                }
            }
        }
    }

    #[test]
    fn where_two_die_at_once_it_stays_even() {
        let names = ["a.1", "b.1", "c.1", "d.1", "e.1"];
        let before = balance(&Assignment::default(), &runs(&names), 16);
        let heirs = heirs_of(&before, 16);
        for first in 0..names.len() {
            for second in 0..first {
                let mut live = runs(&names);
                live.remove(names[first]);
                live.remove(names[second]);
                let after = balance(&before, &live, 16);
                check(&after, 3, 16);
                let orphans = [first, second].map(|at| &before.members[names[at]]);
                let orphans: Vec<u16> = orphans.into_iter().flatten().copied().collect();
                assert_eq!(moved(&before, &after, 16), orphans.len());
                // Of two standbys one lives, mostly, and mostly has room.
                let warm = orphans.iter().filter(|partition| {
                    let heir = name_of(after.of(**partition).unwrap());
                    heirs[usize::from(**partition)][..2].contains(&heir)
                });
                assert!(2 * warm.count() > orphans.len());
            }
        }
    }

    #[test]
    fn a_member_that_joins_at_a_death_does_not_take_what_standbys_have_room_for() {
        let before = balance(&Assignment::default(), &runs(&["a.1", "b.1", "c.1"]), 9);
        let standbys = first_standbys(&before, 9);
        let after = balance(&before, &runs(&["a.1", "b.1", "d.1"]), 9);
        check(&after, 3, 9);
        // Those have as much as they shall have: the new one gets all.
        assert_eq!(after.members["d.1"], before.members["c.1"]);
        let before = Assignment {
            members: [
                ("a.1".into(), vec![0, 1]),
                ("b.1".into(), vec![2, 3]),
                ("c.1".into(), vec![4, 5, 6, 7, 8]),
            ]
            .into(),
        };
        let after = balance(&before, &runs(&["a.1", "b.1", "d.1"]), 9);
        check(&after, 3, 9);
        let warm = |p: &u16| {
            let heirs = &heirs_of(&before, 9)[usize::from(*p)];
            heirs[0] == name_of(after.of(*p).unwrap())
        };
        assert_eq!((4..9).filter(warm).count(), 2, "{standbys:?}");
    }
}
