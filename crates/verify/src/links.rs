//! What must hold between partitions at the end of the log.

use onhand_log::partition_of;

use crate::holds::{Hold, Line};
use crate::partition::{Rest, Standing};
use crate::report::{About, Findings, Invariant, Report};

/// Checks all partitions against each other.
pub(crate) fn check(rests: &[Rest]) -> Report {
    let mut report = Report::default();
    let partitions = u16::try_from(rests.len()).expect("a topic has at most 1,024 partitions");
    for (rest, partition) in rests.iter().zip(0..) {
        let mut findings = Findings::new(partition);
        check_records(rest, partition, rests, &mut findings);
        check_holds(rest, partition, partitions, rests, &mut findings);
        check_reservations(rest, partition, partitions, rests, &mut findings);
        report.merge(findings.report);
    }
    report
}

/// Everything sent was received, in order, as it was sent, and nothing else was.
fn check_records(rest: &Rest, partition: u16, rests: &[Rest], findings: &mut Findings) {
    for (sent, (to, target)) in rest.sent.iter().zip(rests.iter().enumerate()) {
        let received = target.received.get(usize::from(partition));
        let received = received.map_or(&[][..], Vec::as_slice);
        let same = sent
            .iter()
            .zip(received)
            .take_while(|(a, b)| a == b)
            .count();
        if same < sent.len() || same < received.len() {
            let what = format!(
                "{} records were sent to partition {to}, {} are in its log, and from the {}th on they \
                 differ",
                sent.len(),
                received.len(),
                same + 1
            );
            findings.add(Invariant::Numbering, About::default(), what);
        }
    }
}

/// Whether records between two partitions are not decided yet.
fn in_flight(a: u16, b: u16, rests: &[Rest]) -> bool {
    let unread = |from: u16, to: u16| {
        let rest = rests.get(usize::from(to));
        let count = rest.and_then(|rest| rest.unread.get(usize::from(from)));
        count.is_some_and(|count| *count > 0)
    };
    unread(a, b) || unread(b, a)
}

fn lines_on<'s>(standing: Option<&'s Standing>, sku: &str) -> Vec<&'s Line> {
    let lines = standing.map_or(&[][..], |standing| &standing.lines);
    let mut lines: Vec<&Line> = lines
        .iter()
        .filter(|(name, _)| **name == *sku)
        .map(|(_, line)| line)
        .collect();
    lines.sort_unstable();
    lines
}

fn open_lines(hold: Option<&Hold>) -> Vec<&Line> {
    let lines = hold.map_or(&[][..], |hold| &hold.lines);
    let open = |line: &&Line| line.reserved != 0 || line.committed != 0;
    let mut lines: Vec<&Line> = lines.iter().filter(open).collect();
    lines.sort_unstable();
    lines
}

/// Every open hold has its reservation, and where no step is under way both say the same.
fn check_holds(
    rest: &Rest,
    partition: u16,
    partitions: u16,
    rests: &[Rest],
    findings: &mut Findings,
) {
    for ((reservation, sku), hold) in &rest.holds {
        let owner = partition_of(reservation.as_bytes(), partitions);
        if in_flight(owner, partition, rests) {
            findings.report.figures.in_flight_skipped += 1;
            continue;
        }
        let about = About::reservation(reservation).with_sku(sku);
        let standing = rests
            .get(usize::from(owner))
            .and_then(|rest| rest.reservations.get(reservation));
        if standing.is_some_and(|standing| standing.has_step) {
            continue;
        }
        if standing.is_none() {
            let what = format!(
                "{} are held, {} of them reserved, for a reservation that has nothing open",
                hold.open(),
                hold.reserved()
            );
            findings.add(Invariant::HoldsHaveReason, about, what);
            continue;
        }
        if hold.undecided {
            let what =
                "the hold is undecided, and no step of its reservation is under way".to_owned();
            findings.add(Invariant::HoldsHaveReason, about, what);
        }
        let (held, stated) = (open_lines(Some(hold)), lines_on(standing, sku));
        if held != stated {
            let what = format!("the holds are {held:?}, the reservation states {stated:?}");
            findings.add(Invariant::HoldsHaveReason, about, what);
        }
    }
}

/// What a reservation states as open is held, where no step is under way.
fn check_reservations(
    rest: &Rest,
    partition: u16,
    partitions: u16,
    rests: &[Rest],
    findings: &mut Findings,
) {
    for (reservation, standing) in &rest.reservations {
        if standing.has_step {
            continue;
        }
        let mut skus: Vec<&str> = standing.lines.iter().map(|(sku, _)| &**sku).collect();
        skus.dedup();
        for sku in skus {
            let owner = partition_of(sku.as_bytes(), partitions);
            if in_flight(owner, partition, rests) {
                findings.report.figures.in_flight_skipped += 1;
                continue;
            }
            let key = (reservation.clone(), Box::from(sku));
            let hold = rests
                .get(usize::from(owner))
                .and_then(|rest| rest.holds.get(&key));
            // Where there is an open hold, the check of holds has compared the two.
            if hold.is_none() {
                let what = format!(
                    "the reservation states {:?}, and nothing is held",
                    lines_on(Some(standing), sku)
                );
                let about = About::reservation(reservation).with_sku(sku);
                findings.add(Invariant::HoldsHaveReason, about, what);
            }
        }
    }
}
