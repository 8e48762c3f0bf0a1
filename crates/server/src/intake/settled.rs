//! The bytes in which a decided chunk is put aside: its lines, its refusals, and where its decisions
//! stand in the log. They live as long as their stream and are read by the code that wrote them.

use onhand_flows::pack;

use super::chunk::Order;
use super::render::{Answers, RenderError, Spot};
use crate::decisions::DecisionLog;

/// Where decisions stand: partition, number of the first, and its byte in the pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    partition: u16,
    number: u64,
    offset: u64,
}

pub(crate) fn encode(order: &Order, answers: &Answers) -> Vec<u8> {
    let mut out = Vec::with_capacity(order.lines.len() * 3 + order.refusals.len() + 64);
    put(&mut out, order.lines.len() as u64);
    let mut last = 0;
    for (number, partition) in &order.lines {
        put(&mut out, number - last);
        put(&mut out, u64::from(*partition));
        last = *number;
    }
    put(&mut out, order.refused);
    put(&mut out, order.refusals.len() as u64);
    out.extend_from_slice(&order.refusals);
    put(&mut out, answers.spots.len() as u64);
    for (partition, spot) in &answers.spots {
        put(&mut out, u64::from(*partition));
        put(&mut out, spot.number);
        put(&mut out, (spot.offset + spot.cut) as u64);
    }
    put(&mut out, answers.late.len() as u64);
    for ((partition, of), spot) in &answers.late {
        put(&mut out, u64::from(*partition));
        put(&mut out, *of);
        put(&mut out, spot.number);
        put(&mut out, (spot.offset + spot.cut) as u64);
    }
    out
}

/// Reads back what was put aside, its decisions from the log.
pub(crate) fn decode(bytes: &[u8], log: &DecisionLog) -> Result<(Order, Answers), RenderError> {
    let (order, spots, late) = read(bytes).expect("this process wrote it a moment ago");
    let mut answers = Answers::default();
    for place in spots {
        let lines = order.lines.iter();
        let lines = lines.filter(|(_, partition)| *partition == place.partition);
        let spot = spot(log, place, lines.count() as u64)?;
        answers.spots.insert(place.partition, spot);
    }
    for (of, place) in late {
        answers
            .late
            .insert((place.partition, of), spot(log, place, 1)?);
    }
    Ok((order, answers))
}

/// So many decisions from that place on. They stand in one record, or in several that follow each other
/// where what was asked was decided in parts.
fn spot(log: &DecisionLog, place: Place, count: u64) -> Result<Spot, RenderError> {
    let mut last = place.number + count.saturating_sub(1);
    log.await_number(place.partition, last)?;
    let locate = |number| {
        let found = log.locate(place.partition, number)?;
        found.ok_or(RenderError::Short(place.partition))
    };
    let mut pack = locate(last)?;
    let mut more = Vec::new();
    while pack.first > place.number {
        let before = pack.first - 1;
        more.push((last - before, std::mem::replace(&mut pack, locate(before)?)));
        last = before;
    }
    let mut bytes = pack.bytes;
    for (count, next) in more.into_iter().rev() {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        bytes = pack::joined(&bytes, &next.bytes, count)?.into();
    }
    let offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
    Ok(Spot {
        pack: bytes,
        offset,
        number: place.number,
        cut: 0,
    })
}

fn read(bytes: &[u8]) -> Option<(Order, Vec<Place>, Vec<(u64, Place)>)> {
    let mut rest = bytes;
    let mut order = Order::default();
    let mut last = 0;
    for _ in 0..take(&mut rest)? {
        last += take(&mut rest)?;
        order
            .lines
            .push((last, u16::try_from(take(&mut rest)?).ok()?));
    }
    order.refused = take(&mut rest)?;
    let length = usize::try_from(take(&mut rest)?).ok()?;
    let (refusals, behind) = rest.split_at_checked(length)?;
    order.refusals = refusals.to_vec();
    rest = behind;
    let mut spots = Vec::new();
    for _ in 0..take(&mut rest)? {
        let partition = u16::try_from(take(&mut rest)?).ok()?;
        let (number, offset) = (take(&mut rest)?, take(&mut rest)?);
        spots.push(Place {
            partition,
            number,
            offset,
        });
    }
    let mut late = Vec::new();
    for _ in 0..take(&mut rest)? {
        let partition = u16::try_from(take(&mut rest)?).ok()?;
        let of = take(&mut rest)?;
        let (number, offset) = (take(&mut rest)?, take(&mut rest)?);
        late.push((
            of,
            Place {
                partition,
                number,
                offset,
            },
        ));
    }
    rest.is_empty().then_some((order, spots, late))
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::super::chunk::REFUSED;
    use super::*;

    #[test]
    fn a_chunk_reads_back_as_it_was_put_aside() {
        let order = Order {
            lines: vec![(1, 3), (2, REFUSED), (900, 0)],
            refusals: b"{}\n".to_vec(),
            refused: 1,
        };
        let spot = |number| Spot {
            pack: Bytes::new(),
            offset: 200,
            number,
            cut: 100,
        };
        let answers = Answers {
            spots: BTreeMap::from([(0, spot(7)), (3, spot(u64::MAX))]),
            late: BTreeMap::from([((3, 8), spot(11))]),
        };
        let (read_order, spots, late) = read(&encode(&order, &answers)).unwrap();
        assert_eq!(read_order, order);
        assert_eq!(spots.len(), 2);
        assert_eq!(
            spots[1],
            Place {
                partition: 3,
                number: u64::MAX,
                offset: 300
            }
        );
        assert_eq!(
            late,
            [(
                8,
                Place {
                    partition: 3,
                    number: 11,
                    offset: 300
                }
            )]
        );
    }
}
