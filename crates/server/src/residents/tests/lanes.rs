//! Each record has its effect once, whatever becomes of appends, lanes and nodes.

use std::collections::BTreeMap;

use onhand_log::memory::Fault;
use onhand_log::testing::append;

use super::super::Resident as _;
use super::*;

const PARTITIONS: u16 = 3;

/// Commands that fill several appends of each partition, some of them bad: every third one is large, every
/// seventh is refused.
fn records(from: u32, to: u32) -> Vec<Seen> {
    (from..to)
        .map(|n| {
            let partition = u16::try_from(n % u32::from(PARTITIONS)).unwrap();
            let mut record = receive(partition, &n.to_string(), &format!("S{}", n % 5));
            if n % 7 == 0 {
                record.value = Some(format!("bad {n}").into_bytes());
            } else if n % 3 == 0
                && let Some(value) = &mut record.value
            {
                value.resize(400 << 10, b' ');
            }
            record
        })
        .collect()
}

/// Checks that each of those was taken or put aside once, those of one partition and SKU in order.
fn check(log: &dyn Log, until: u32) {
    let mut ids: Vec<u32> = Vec::new();
    let mut last: BTreeMap<(u32, String), u32> = BTreeMap::new();
    for (_, _, id, sku) in taken(log) {
        let id: u32 = id.parse().unwrap();
        let before = last.insert((id % u32::from(PARTITIONS), sku), id);
        assert!(before.is_none_or(|before| before < id), "{before:?} {id}");
        ids.push(id);
    }
    for letter in all(log, topics::DEAD_LETTERS) {
        let text = String::from_utf8(letter.value.unwrap()).unwrap();
        ids.push(text.strip_prefix("bad ").unwrap().parse().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..until).collect::<Vec<_>>());
}

#[test]
fn every_record_has_its_effect_once_through_every_ending() {
    for seed in 1..=8 {
        let mut dice = Dice(seed);
        let (memory, log) = memory(MemoryLog::new());
        create(log.as_ref(), PARTITIONS);
        write(log.as_ref(), &records(0, 60));
        let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
        memory.script((0..12).map(|_| match dice.below(4) {
            0 => Some(Fault::Aborted),
            1 => Some(Fault::UnknownWritten),
            2 => Some(Fault::UnknownNotWritten),
            _ => None,
        }));
        eventually("all is taken", || {
            has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
        });
        let figures = residents.figures()[0].1;
        assert!(figures.retries > 0, "seed {seed}: no fault was met");
        residents.stop();
        check(log.as_ref(), 60);
    }
}

#[test]
fn a_lane_whose_name_is_somebody_elses_stops_and_the_heir_goes_on() {
    let (memory, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    write(log.as_ref(), &records(0, 30));
    memory.script([None, Some(Fault::Fenced)]);
    let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
    eventually("one lane stopped", || residents.figures()[0].1.stopped == 1);
    assert!(!has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS));
    let heir = start(&log, PARTITIONS, true, ViewChoice::NONE);
    eventually("all is taken", || {
        has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
    });
    // Whoever stopped gives up nothing that is the heir's.
    residents.stop();
    write(log.as_ref(), &records(30, 60));
    eventually("more is taken", || {
        has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
    });
    assert_eq!(heir.figures()[0].1.stopped, 0);
    heir.stop();
    check(log.as_ref(), 60);
}

#[test]
fn a_node_that_is_killed_takes_each_record_once() {
    for seed in 1..=8 {
        let mut dice = Dice(seed);
        let (mut memory_log, mut log) = memory(MemoryLog::new());
        create(log.as_ref(), PARTITIONS);
        let mut written = 0;
        for _ in 0..6 {
            let more = u32::try_from(dice.below(20)).unwrap();
            write(log.as_ref(), &records(written, written + more));
            written += more;
            let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
            std::thread::sleep(Duration::from_millis(dice.below(10)));
            memory_log.hold();
            // What follows is not durable when the process is gone.
            std::thread::sleep(Duration::from_millis(dice.below(5)));
            let reopened = memory_log.reopened();
            memory_log.poison();
            residents.stop();
            (memory_log, log) = memory(reopened);
        }
        let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
        eventually("all is taken", || {
            has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
        });
        residents.stop();
        check(log.as_ref(), written);
    }
}

#[test]
fn a_partition_that_moves_to_and_fro_takes_each_record_once() {
    let (_, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    let [one, other] = [(); 2].map(|()| start(&log, PARTITIONS, true, ViewChoice::NONE));
    (0..PARTITIONS).for_each(|partition| one.close(partition));
    (0..PARTITIONS).for_each(|partition| other.close(partition));
    let mut dice = Dice(9);
    let mut written = 0;
    for turn in 0..20 {
        write(log.as_ref(), &records(written, written + 5));
        written += 5;
        let (to, from) = if turn % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        for partition in 0..PARTITIONS {
            from.close(partition);
            to.open(partition);
        }
        std::thread::sleep(Duration::from_millis(dice.below(6)));
    }
    eventually("all is taken", || {
        has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
    });
    assert_eq!(one.figures()[0].1.stopped, 0);
    assert_eq!(other.figures()[0].1.stopped, 0);
    one.stop();
    other.stop();
    check(log.as_ref(), written);
}

#[test]
fn a_close_returns_when_what_was_appended_has_ended_and_the_name_is_given_up() {
    let (memory, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    write(log.as_ref(), &records(0, 12));
    memory.hold();
    let residents = Arc::new(start(&log, PARTITIONS, true, ViewChoice::NONE));
    eventually("something is appended", || log.stats().pending > 0);
    let notes = Notes::default();
    let closing = {
        let (residents, notes) = (Arc::clone(&residents), Arc::clone(&notes));
        std::thread::spawn(move || {
            residents.close(0);
            notes.lock().unwrap().push("closed".to_owned());
        })
    };
    std::thread::sleep(Duration::from_millis(30));
    assert!(
        notes.lock().unwrap().is_empty(),
        "its appends have not ended"
    );
    memory.release();
    closing.join().unwrap();
    // Given up: a token of that name that is no newer than the gate's last one is worth nothing.
    let topic = topic_of(log.as_ref(), topics::INBOX);
    let at = TopicPartition {
        topic,
        partition: 0,
    };
    let next = log.consumed("gate/0", at).unwrap().unwrap();
    write(log.as_ref(), &[receive(0, "late", "A")]);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(log.consumed("gate/0", at), Ok(Some(next)), "it is closed");
    let token = onhand_log::Token {
        owner: "gate/0".into(),
        generation: 1,
    };
    assert!(append(log.as_ref(), &token, Vec::new(), Vec::new()).is_err());
    residents.stop();
}

#[test]
fn new_work_waits_while_there_is_no_space_and_is_taken_then() {
    let (memory, log) = memory(MemoryLog::new());
    create(log.as_ref(), PARTITIONS);
    write(log.as_ref(), &records(0, 12));
    memory.set_out_of_space(true);
    let residents = start(&log, PARTITIONS, true, ViewChoice::NONE);
    eventually("it is seen", || residents.figures()[0].1.retries > 2);
    let lag = residents.figures()[0].1.lag;
    assert_eq!(lag, 12);
    memory.set_out_of_space(false);
    eventually("all is taken", || {
        has_read(log.as_ref(), "gate", topics::INBOX, PARTITIONS)
    });
    eventually("nothing is behind", || residents.figures()[0].1.lag == 0);
    assert_eq!(residents.figures()[0].1.records, 12);
    residents.stop();
    check(log.as_ref(), 12);
}
