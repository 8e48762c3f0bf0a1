//! The commands of a workload, made by copying bytes.

use crate::entropy::{self, Seeded};
use crate::json_line::push_number;

/// Commands spread over SKUs; the same seed gives the same commands, under new ids.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    skus: u64,
    seed: u64,
    /// Makes the ids of this run its own: a repeat of a run would otherwise be duplicates.
    run: String,
}

impl Workload {
    pub(crate) fn new(skus: u64, seed: u64) -> Workload {
        let id = entropy::new_id();
        let run = id.get(20..).unwrap_or_default().to_owned();
        Workload { skus, seed, run }
    }

    /// What is drawn for the command of that number, whichever connection sends it.
    fn draw(&self, number: u64) -> Seeded {
        Seeded::new(self.seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Appends the fact of that number: half of them come in, half go out.
    pub(crate) fn fact(&self, out: &mut Vec<u8>, number: u64) {
        let drawn = self.draw(number).next();
        self.head(out, number);
        let kind: &[u8] = if drawn & 1 == 0 { b"receive" } else { b"ship" };
        out.extend_from_slice(b"\",\"type\":\"");
        out.extend_from_slice(kind);
        out.extend_from_slice(b"\",\"sku\":\"");
        sku(out, (drawn >> 8) % self.skus);
        out.extend_from_slice(b"\",\"location\":\"bench\",\"quantity\":");
        push_number(out, 1 + (drawn >> 1) % 9);
        out.push(b'}');
    }

    /// Appends the reservation of that number: two lines of one unit, on two SKUs where there are
    /// two, held for a minute.
    pub(crate) fn reserve(&self, out: &mut Vec<u8>, number: u64) {
        let drawn = (self.draw(number).next() >> 8) % self.skus;
        self.head(out, number);
        out.extend_from_slice(b"\",\"type\":\"reserve\",\"ttl_s\":60,\"lines\":[{\"sku\":\"");
        sku(out, drawn);
        out.extend_from_slice(b"\",\"quantity\":1,\"location\":\"bench\"}");
        if self.skus > 1 {
            out.extend_from_slice(b",{\"sku\":\"");
            sku(out, (drawn + self.skus / 2) % self.skus);
            out.extend_from_slice(b"\",\"quantity\":1,\"location\":\"bench\"}");
        }
        out.extend_from_slice(b"]}");
    }

    fn head(&self, out: &mut Vec<u8>, number: u64) {
        out.extend_from_slice(b"{\"source\":\"bench\",\"id\":\"");
        out.extend_from_slice(self.run.as_bytes());
        out.push(b'-');
        push_number(out, number);
    }
}

/// Appends the name of that SKU.
pub(crate) fn sku(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(b"bench-");
    push_number(out, number);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn made(write: impl Fn(&mut Vec<u8>, u64)) -> Vec<Value> {
        let one = |number| {
            let mut out = Vec::new();
            write(&mut out, number);
            serde_json::from_slice(&out).expect("each command is JSON")
        };
        (0..1_000).map(one).collect()
    }

    #[test]
    fn facts_have_their_own_ids_and_use_all_skus() {
        let workload = Workload::new(7, 1);
        let facts = made(|out, n| workload.fact(out, n));
        let names = |name: &str| -> BTreeSet<&str> {
            facts
                .iter()
                .filter_map(|fact| fact[name].as_str())
                .collect()
        };
        assert_eq!(names("id").len(), 1_000);
        assert_eq!(names("sku").len(), 7);
        assert_eq!(names("type").len(), 2);
        let again = Workload::new(7, 1);
        let repeat = made(|out, n| again.fact(out, n));
        assert_ne!(facts[0]["id"], repeat[0]["id"]);
        let rest = |fact: &Value| (fact["sku"].clone(), fact["quantity"].clone());
        assert!(facts.iter().zip(&repeat).all(|(a, b)| rest(a) == rest(b)));
    }

    #[test]
    fn a_reservation_has_two_lines_on_two_skus() {
        let workload = Workload::new(2, 1);
        for reserve in made(|out, n| workload.reserve(out, n)) {
            let lines = reserve["lines"].as_array().expect("lines");
            assert_eq!(lines.len(), 2);
            assert_ne!(lines[0]["sku"], lines[1]["sku"]);
        }
        let single = Workload::new(1, 1);
        let reserve = &made(|out, n| single.reserve(out, n))[0];
        assert_eq!(reserve["lines"].as_array().map(Vec::len), Some(1));
    }
}
