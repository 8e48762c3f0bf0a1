//! Many lines at a time: parsed, packed by partition, and remembered just enough to answer in order.

use std::collections::BTreeMap;
use std::ops::Range;

use onhand_flows::{CommandPack, key_of};
use onhand_ledger::Body;

use super::lines::Line;
use crate::wire::command::{self, Given};
use crate::wire::outcome;
use crate::wire::refusal::{Refusal, RefusalKind};

/// The mark of a line that did not reach the log. Partitions are 0 to 1,023.
pub(crate) const REFUSED: u16 = u16::MAX;

/// What is kept of a chunk until its lines are answered. Lines are few and long, or short and many;
/// either way this is a few bytes for each.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// For each line: its number in the stream, and the partition that decides it, or [`REFUSED`].
    pub(crate) lines: Vec<(u64, u16)>,
    /// The outcome lines of those refused, in order, each ending with a line feed.
    pub(crate) refusals: Vec<u8>,
    pub(crate) refused: u64,
}

/// Parsed lines, ready to be handed over.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) order: Order,
    pub(crate) packs: Vec<(u16, Vec<u8>)>,
    pub(crate) commands: u64,
    /// Some outcomes may come later than those of the others.
    pub(crate) may_pend: bool,
}

/// Parses lines of `bytes`, whose first has the number `first`. `partition_of` says who decides a key.
pub(crate) fn parse(
    bytes: &[u8],
    lines: &[(u64, Line)],
    first: u64,
    line_max: usize,
    partition_of: impl Fn(&str) -> u16,
) -> Chunk {
    let mut order = Order {
        lines: Vec::with_capacity(lines.len()),
        ..Order::default()
    };
    let mut packs: BTreeMap<u16, CommandPack> = BTreeMap::new();
    let mut commands = 0;
    let mut may_pend = false;
    let given = Given::default();
    for (place, line) in lines {
        let number = first + place;
        let read = match line {
            Line::At(range) => text(bytes, range).and_then(|text| command::parse(text, &given)),
            Line::TooLong => Err(Refusal::new(
                RefusalKind::TooLong,
                "",
                format!("is longer than {line_max} B; send shorter lines"),
            )),
        };
        match read {
            Ok(command) => {
                let partition = partition_of(key_of(&command));
                packs.entry(partition).or_default().push(&command);
                order.lines.push((number, partition));
                commands += 1;
                may_pend |= decided_later(&command.body);
            }
            Err(refusal) => {
                outcome::write_refusal(&mut order.refusals, &refusal, Some(number));
                order.refusals.push(b'\n');
                order.refused += 1;
                order.lines.push((number, REFUSED));
            }
        }
    }
    let packs = packs
        .into_iter()
        .map(|(partition, pack)| (partition, pack.finish()))
        .collect();
    Chunk {
        order,
        packs,
        commands,
        may_pend,
    }
}

fn text<'b>(bytes: &'b [u8], range: &Range<usize>) -> Result<&'b str, Refusal> {
    std::str::from_utf8(bytes.get(range.clone()).unwrap_or_default()).map_err(|_| {
        Refusal::new(
            RefusalKind::Unreadable,
            "",
            "is no UTF-8; send JSON in UTF-8",
        )
    })
}

/// The owner of a reservation asks others before it answers.
fn decided_later(body: &Body<'_>) -> bool {
    matches!(
        body,
        Body::Commit { .. }
            | Body::Reserve { .. }
            | Body::Confirm { .. }
            | Body::Release { .. }
            | Body::Extend { .. }
    )
}
