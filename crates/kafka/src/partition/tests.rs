use super::*;
use onhand_log::testing::batch_of;

fn partition() -> Partition {
    let partition = Partition::new("t".into(), 0, Arc::default());
    assert!(partition.settle(0, 0, 1, false));
    assert_eq!(partition.follow(), Some(0));
    partition
}

fn record(offset: Offset) -> RecordBatch {
    batch_of(1, b"v").rebase(offset)
}

fn found(partition: &Partition, from: Offset, view: View) -> Vec<Offset> {
    match partition.look(from, usize::MAX, 1, view) {
        Look::Found(batches, _) => batches.iter().map(RecordBatch::base_offset).collect(),
        _ => Vec::new(),
    }
}

fn durable(partition: &Partition) -> Vec<Offset> {
    found(partition, 0, View::Durable)
}

fn latest(partition: &Partition) -> Vec<Offset> {
    found(partition, 0, View::Latest)
}

#[test]
fn own_records_are_latest_when_sent_and_durable_when_committed() {
    let partition = partition();
    assert!(partition.sent(vec![record(0), record(1)]));
    assert_eq!(
        (durable(&partition), latest(&partition)),
        (vec![], vec![0, 1])
    );
    assert_eq!(partition.bounds(1, View::Durable), Some((0, 0)));
    assert_eq!(partition.bounds(1, View::Latest), Some((0, 2)));
    assert!(matches!(
        partition.look(2, 1, 1, View::Durable),
        Look::AtEnd
    ));
    assert!(matches!(
        partition.look(3, 1, 1, View::Durable),
        Look::Outside(0, 2)
    ));
    assert!(!partition.committed(2), "the latest view had it");
    assert_eq!(durable(&partition), [0, 1]);
    // The next transaction comes before the mark of this one, which then stands in it.
    assert!(partition.sent(vec![record(2)]));
    assert!(!partition.sent(vec![record(4)]));
    assert_eq!(latest(&partition), [0, 1, 2]);
    assert!(
        !partition.committed(5),
        "what is missing may be somebody else's"
    );
    assert_eq!(durable(&partition), [0, 1, 2]);
    assert!(partition.passed(6));
    assert_eq!(durable(&partition), [0, 1, 2, 4]);
}

#[test]
fn a_missing_offset_is_a_mark_once_the_follower_has_passed_it() {
    let partition = partition();
    partition.sent(vec![record(0)]);
    partition.committed(1);
    assert!(!partition.sent(vec![record(2)]));
    assert_eq!(latest(&partition), [0]);
    assert!(partition.passed(2));
    assert_eq!(
        (durable(&partition), latest(&partition)),
        (vec![0], vec![0, 2])
    );
    // Or it is a record, which then comes first.
    partition.committed(3);
    assert!(!partition.sent(vec![record(5)]));
    assert!(partition.followed(vec![record(4)]));
    assert_eq!(latest(&partition), [0, 2, 4, 5]);
    assert_eq!(durable(&partition), [0, 2, 4]);
}

#[test]
fn what_came_to_nothing_is_gone_and_reading_goes_on_behind_it() {
    let partition = partition();
    partition.sent(vec![record(0), record(1)]);
    assert!(partition.aborted(), "the latest view had it");
    assert_eq!(latest(&partition), Vec::<Offset>::new());
    assert_eq!(partition.bounds(1, View::Latest), Some((0, 0)));
    assert!(
        matches!(partition.look(2, 1, 1, View::Latest), Look::AtEnd),
        "shown before"
    );
    assert!(!partition.sent(vec![record(3)]), "its mark is at 2, or not");
    assert!(partition.passed(3));
    assert_eq!(found(&partition, 2, View::Latest), [3]);
}

/// Whoever read it may have decided on it, at whatever time it was shown.
#[test]
fn what_came_to_nothing_says_whether_it_was_ever_shown() {
    let partition = partition();
    partition.sent(vec![record(0)]);
    partition.committed(1);
    // Its mark is at 1, and the follower has not been there yet.
    assert!(!partition.sent(vec![record(2)]));
    assert!(!partition.aborted(), "nothing was before the follower");
    assert!(!partition.sent(vec![record(4)]));
    assert_eq!(latest(&partition), [0]);
    assert!(partition.passed(4));
    assert_eq!(latest(&partition), [0, 4], "shown later than it was sent");
    assert!(partition.aborted());
    assert!(!partition.sent(vec![record(6)]));
    assert!(partition.passed(6));
    partition.committed(7);
    assert!(!partition.sent(vec![record(8)]));
    assert!(!partition.aborted(), "what was shown is committed");
    // Nobody knows any more what was there, but that it was shown.
    assert!(partition.passed(10));
    assert!(partition.sent(vec![record(10)]));
    partition.break_off();
    assert!(partition.aborted());
}

#[test]
fn the_follower_brings_what_was_not_known_and_nothing_twice() {
    let partition = partition();
    partition.sent(vec![record(2), record(3)]);
    let three = onhand_log::testing::batch(&[(1, None, b"a"), (2, None, b"b"), (3, None, b"c")]);
    // Committed already, though this instance does not know it yet.
    assert_eq!(partition.known_behind(), [(2, 4)]);
    assert!(partition.followed(vec![three.rebase(1), record(5)]));
    // It reads in order: what it did not bring below is not there.
    assert_eq!(durable(&partition), [1]);
    assert_eq!(latest(&partition), [1, 2, 3]);
    partition.committed(4);
    assert_eq!(durable(&partition), [1, 2, 3, 5]);
}

#[test]
fn bounds_are_asked_for_after_an_own_commit() {
    let partition = partition();
    assert_eq!(partition.bounds(1, View::Latest), Some((0, 0)));
    partition.sent(vec![record(0)]);
    partition.committed(1);
    assert_eq!(partition.bounds(1, View::Latest), None);
    assert!(!partition.settle(0, 0, 1, false), "the mark is on the way");
    assert!(partition.settle(0, 2, 1, false));
    assert_eq!(partition.bounds(1, View::Latest), Some((0, 2)));
    assert_eq!(
        partition.bounds(2, View::Latest),
        None,
        "somebody's name was taken since"
    );
    assert!(matches!(partition.look(2, 1, 1, View::Latest), Look::AtEnd));
    assert!(matches!(
        partition.look(3, 1, 1, View::Latest),
        Look::Outside(0, 2)
    ));
}

#[test]
fn what_is_shed_is_read_from_the_brokers() {
    let partition = partition();
    partition.sent(vec![record(0), record(1)]);
    partition.committed(2);
    assert!(partition.shed(1, 0) > 0);
    assert!(matches!(
        partition.look(0, 1, 1, View::Latest),
        Look::Cold(2)
    ));
    assert_eq!(found(&partition, 1, View::Latest), [1]);
}
