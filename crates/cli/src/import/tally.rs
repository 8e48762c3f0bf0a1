//! What a file held, counted by kind as its lines are read.

use serde_json::{Value, json};

use super::decimal::Decimal;
use crate::output::thousands;

/// The kinds of a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Receipts,
    Shipments,
    Returns,
    AdjustmentsIn,
    AdjustmentsOut,
    Moves,
    Counts,
    Other,
}

const KINDS: [(Kind, &str, &str); 8] = [
    (Kind::Receipts, "receipts", "receipts"),
    (Kind::Shipments, "shipments", "shipments"),
    (Kind::Returns, "returns", "returns"),
    (Kind::AdjustmentsIn, "adjustments_in", "adjustments in"),
    (Kind::AdjustmentsOut, "adjustments_out", "adjustments out"),
    (Kind::Moves, "moves", "moves"),
    (Kind::Counts, "counts", "counts"),
    (Kind::Other, "other", "other commands"),
];

impl Kind {
    /// The kind of a command by its type and the sign of its quantity.
    pub(crate) fn of(name: &str, quantity: Decimal) -> Kind {
        match name {
            "receive" => Kind::Receipts,
            "ship" => Kind::Shipments,
            "return" => Kind::Returns,
            "adjust" if quantity < Decimal::ZERO => Kind::AdjustmentsOut,
            "adjust" => Kind::AdjustmentsIn,
            "move" => Kind::Moves,
            "count" => Kind::Counts,
            _ => Kind::Other,
        }
    }
}

/// Lines and units by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    kinds: [(u64, Decimal); KINDS.len()],
    pub(crate) quarantined: u64,
}

impl Tally {
    /// One command of that kind; its units count without sign.
    pub(crate) fn count(&mut self, kind: Kind, quantity: Decimal) {
        let place = KINDS.iter().position(|(k, _, _)| *k == kind);
        if let Some((lines, units)) = place.and_then(|at| self.kinds.get_mut(at)) {
            *lines += 1;
            units.add(quantity.absolute());
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.quarantined += other.quarantined;
        for ((lines, units), (more_lines, more_units)) in self.kinds.iter_mut().zip(&other.kinds) {
            *lines += more_lines;
            units.add(*more_units);
        }
    }

    /// Commands and quarantined lines together.
    pub(crate) fn lines(&self) -> u64 {
        self.commands() + self.quarantined
    }

    pub(crate) fn commands(&self) -> u64 {
        self.kinds.iter().map(|(lines, _)| lines).sum()
    }

    /// For people: only kinds that occur.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let mut rows = vec![("lines read".to_owned(), thousands(self.lines()))];
        for ((lines, units), (_, _, title)) in self.kinds.iter().zip(KINDS) {
            if *lines > 0 {
                rows.push((title.to_owned(), thousands(*lines)));
                let units = if units.is_whole() {
                    thousands(units.whole())
                } else {
                    units.to_string()
                };
                rows.push((format!("  units of {title}"), units));
            }
        }
        rows.push(("quarantined".to_owned(), thousands(self.quarantined)));
        rows
    }

    /// For programs: every kind, zeros included.
    pub(crate) fn json(&self) -> Value {
        let mut kinds = serde_json::Map::new();
        for ((lines, units), (_, name, _)) in self.kinds.iter().zip(KINDS) {
            let units = match i64::try_from(units.whole()) {
                Ok(whole) if units.is_whole() => json!(whole),
                _ => json!(units.to_string()),
            };
            kinds.insert(name.to_owned(), json!({"lines": lines, "units": units}));
        }
        json!({"lines": self.lines(), "kinds": kinds, "quarantined": self.quarantined})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adjustment_goes_by_its_sign_and_units_have_none() {
        let mut tally = Tally::default();
        for (name, quantity) in [
            ("adjust", "-3"),
            ("adjust", "2"),
            ("adjust", "-4"),
            ("ship", "5"),
        ] {
            let quantity = Decimal::parse(quantity.as_bytes()).expect("a number");
            tally.count(Kind::of(name, quantity), quantity);
        }
        tally.quarantined = 1;
        let facts = tally.json();
        assert_eq!(facts.pointer("/lines"), Some(&json!(5)));
        assert_eq!(
            facts.pointer("/kinds/adjustments_out"),
            Some(&json!({"lines": 2, "units": 7}))
        );
        assert_eq!(
            facts.pointer("/kinds/adjustments_in/units"),
            Some(&json!(2))
        );
        assert_eq!(facts.pointer("/kinds/moves/lines"), Some(&json!(0)));
        let mut twice = tally.clone();
        twice.add(&tally);
        assert_eq!(twice.lines(), 10);
    }
}
