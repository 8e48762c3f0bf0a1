//! A stock level: one flat object everywhere, zeros included.

use onhand_ledger::{Level, LevelAfter, Time};

use super::write::Object;
use crate::position;

/// The figures of a level with all that its object shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LevelView<'a> {
    pub(crate) sku: &'a str,
    pub(crate) location: &'a str,
    pub(crate) decimals: u8,
    pub(crate) figures: Figures,
    pub(crate) sequence: u64,
    /// Where it was decided: partition and number.
    pub(crate) partition: u16,
    pub(crate) number: u64,
    pub(crate) at: Time,
}

/// What is where, in smallest units.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Figures {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
}

impl Figures {
    /// What is free to promise; at the ends of the range where it is beyond them.
    pub(crate) fn available(&self) -> i64 {
        saturated(i128::from(self.on_hand) - self.kept())
    }

    fn kept(&self) -> i128 {
        i128::from(self.reserved)
            + i128::from(self.committed)
            + i128::from(self.damaged)
            + i128::from(self.quality_control)
    }

    /// The sum of both, each figure at the end of its range where it is beyond it.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            on_hand: self.on_hand.saturating_add(other.on_hand),
            reserved: self.reserved.saturating_add(other.reserved),
            committed: self.committed.saturating_add(other.committed),
            damaged: self.damaged.saturating_add(other.damaged),
            quality_control: self.quality_control.saturating_add(other.quality_control),
        }
    }

    /// The seven figures as members. Nothing is kept as safety stock or comes as supply in this
    /// version: those are zeros by construction.
    pub(crate) fn write(&self, object: &mut Object<'_>, decimals: u8) {
        object
            .amount("on_hand", self.on_hand, decimals)
            .amount("available", self.available(), decimals)
            .amount("reserved", self.reserved, decimals)
            .amount("committed", self.committed, decimals)
            .amount("damaged", self.damaged, decimals)
            .amount("quality_control", self.quality_control, decimals)
            .amount("safety_stock", 0, decimals)
            .amount("incoming", 0, decimals)
            .amount("in_transit", 0, decimals);
    }
}

fn saturated(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl From<&LevelAfter> for Figures {
    fn from(level: &LevelAfter) -> Self {
        Self {
            on_hand: level.on_hand,
            reserved: level.reserved,
            committed: level.committed,
            damaged: level.damaged,
            quality_control: level.quality_control,
        }
    }
}

impl From<&Level> for Figures {
    fn from(level: &Level) -> Self {
        Self {
            on_hand: level.on_hand,
            reserved: level.reserved,
            committed: level.committed,
            damaged: level.damaged,
            quality_control: level.quality_control,
        }
    }
}

impl<'a> LevelView<'a> {
    pub(crate) fn of(sku: &'a str, partition: u16, level: &'a Level) -> Self {
        Self {
            sku,
            location: level.location.as_str(),
            decimals: level.decimals,
            figures: level.into(),
            sequence: level.sequence,
            partition,
            number: level.number,
            at: level.at,
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, epoch: u64) {
        let mut object = Object::open(out);
        object.text("sku", self.sku).text("location", self.location);
        self.figures.write(&mut object, self.decimals);
        object.uint("sequence", self.sequence);
        let token = object.key("position");
        token.push(b'"');
        position::write_of(token, epoch, self.partition, self.number);
        token.push(b'"');
        object.time("at", self.at);
        object.close();
    }

    /// The strong validator of this level: it changes with every change of it and with the epoch.
    pub(crate) fn etag(&self, epoch: u64) -> String {
        format!("\"{epoch:x}-{:x}\"", self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_shows_every_figure_and_available_is_what_is_left() {
        let level = LevelView {
            sku: "A\"1",
            location: "main",
            decimals: 0,
            figures: Figures {
                on_hand: 10,
                reserved: 3,
                committed: 4,
                damaged: 1,
                quality_control: 0,
            },
            sequence: 9,
            partition: 2,
            number: 77,
            at: Time(0),
        };
        let mut out = Vec::new();
        level.write(&mut out, 5);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["sku"], "A\"1");
        assert_eq!(json["available"], 2);
        assert_eq!(json["in_transit"], 0);
        assert_eq!(json["at"], "1970-01-01T00:00:00Z");
        let position = crate::position::Position::parse(json["position"].as_str().unwrap());
        assert_eq!(position.unwrap().number(2), Some(77));
        assert_eq!(json.as_object().unwrap().len(), 14);
    }

    #[test]
    fn available_stays_within_its_range() {
        let figures = Figures {
            on_hand: i64::MIN,
            reserved: i64::MAX,
            ..Figures::default()
        };
        assert_eq!(figures.available(), i64::MIN);
    }
}
