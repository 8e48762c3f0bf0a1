//! Who shall own what, computed from the last assignment and the live members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::note::{Assignment, name_of};

/// The next assignment: as even as it can be, with as few partitions moved as that takes. A member
/// inherits what an earlier incarnation of its name had. `live` is not empty.
pub(crate) fn balance(
    before: &Assignment,
    live: &BTreeSet<Arc<str>>,
    partitions: u16,
) -> Assignment {
    let count = live.len().max(1);
    let (most, least) = (
        usize::from(partitions).div_ceil(count),
        usize::from(partitions) / count,
    );
    let heirs: BTreeMap<&str, &Arc<str>> = live.iter().map(|run| (name_of(run), run)).collect();
    let mut members: BTreeMap<Arc<str>, Vec<u16>> = live
        .iter()
        .map(|run| (Arc::clone(run), Vec::new()))
        .collect();
    let mut free: BTreeSet<u16> = (0..partitions).collect();
    for (run, owned) in &before.members {
        let heir = if live.contains(run) {
            Some(run)
        } else {
            heirs.get(name_of(run)).copied()
        };
        let Some(has) = heir.and_then(|heir| members.get_mut(heir)) else {
            continue;
        };
        for partition in owned {
            if has.len() < most && free.remove(partition) {
                has.push(*partition);
            }
        }
    }
    for partition in free {
        if let Some(has) = members.values_mut().min_by_key(|has| has.len()) {
            has.push(partition);
        }
    }
    // Whoever joined with less than its share takes from those who have the most.
    while members.values().any(|has| has.len() < least) {
        let richest = members.values_mut().max_by_key(|has| has.len());
        let moved = richest.and_then(Vec::pop);
        let poorest = members.values_mut().min_by_key(|has| has.len());
        if let (Some(poorest), Some(moved)) = (poorest, moved) {
            poorest.push(moved);
        }
    }
    for has in members.values_mut() {
        has.sort_unstable();
    }
    Assignment { members }
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
}
