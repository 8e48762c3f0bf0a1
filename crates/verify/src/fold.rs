//! A figure from all its facts and counts, by event time.
//!
//! What a figure must be follows from two things alone: the latest count of it, and what moved it
//! after that count's time. Everything before is what the counter saw. So nothing is kept of
//! corrections, and a fact that arrives late needs one comparison.

/// Facts kept by time per figure before older ones are summed up.
const KEPT_MAX: usize = 4_096;
/// How far behind the newest event time facts are still kept by time, ms: the default horizon. A
/// count further back than that ends the exact fold of its figure, which the report counts.
const KEPT_MS: i64 = 72 * 3_600_000;

/// What orders counts of one figure: the time it is taken at, the time it was counted at, its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct CountKey {
    pub(crate) at: i64,
    pub(crate) counted_at: i64,
    pub(crate) source: Box<str>,
    pub(crate) id: Box<str>,
}

/// One figure's fold.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    /// What the figure must be.
    pub(crate) expected: i128,
    latest: Option<Box<CountKey>>,
    /// What moved it after the latest count, by event time as far as it came in order.
    after: Vec<(i64, i128)>,
    /// The latest time among the facts no longer kept by time.
    summed_to: i64,
    newest: i64,
    /// When to sum up again.
    look_at: usize,
    /// A count lay further back than facts are kept: the figure is taken as stated from then on.
    pub(crate) inexact: bool,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            expected: 0,
            latest: None,
            after: Vec::new(),
            summed_to: i64::MIN,
            newest: i64::MIN,
            look_at: KEPT_MAX,
            inexact: false,
        }
    }
}

/// What is wrong with how a count ended.
pub(crate) type Wrong = &'static str;

impl Fold {
    /// Something moved the figure.
    pub(crate) fn moved(&mut self, at: i64, delta: i128) {
        self.newest = self.newest.max(at);
        if self.latest.as_ref().is_some_and(|count| at <= count.at) {
            return;
        }
        self.expected += delta;
        match self.after.last_mut() {
            Some((last, sum)) if *last == at => *sum += delta,
            _ => self.after.push((at, delta)),
        }
        if self.after.len() >= self.look_at {
            self.sum_up();
        }
    }

    fn sum_up(&mut self) {
        self.after.sort_unstable_by_key(|(at, _)| *at);
        let horizon = self.newest.saturating_sub(KEPT_MS);
        let old = self.after.partition_point(|(at, _)| *at < horizon);
        if let Some((at, _)) = old.checked_sub(1).and_then(|last| self.after.get(last)) {
            self.summed_to = self.summed_to.max(*at);
        }
        let mut merged: Vec<(i64, i128)> = Vec::new();
        for (at, delta) in self.after.drain(..).skip(old) {
            match merged.last_mut() {
                Some((last, sum)) if *last == at => *sum += delta,
                _ => merged.push((at, delta)),
            }
        }
        self.after = merged;
        self.look_at = KEPT_MAX.max(2 * self.after.len());
    }

    /// A count that was applied.
    pub(crate) fn counted(&mut self, key: CountKey, counted: i128) -> Result<(), Wrong> {
        self.newest = self.newest.max(key.at);
        if let Some(latest) = &self.latest {
            if key.at == latest.at && key < **latest {
                return Err(
                    "it holds though another count at the same time comes after it by name",
                );
            }
            if key.at < latest.at {
                return Ok(());
            }
        }
        if key.at < self.summed_to {
            self.inexact = true;
        }
        self.after.retain(|(at, _)| *at > key.at);
        self.expected = counted + self.after.iter().map(|(_, delta)| delta).sum::<i128>();
        self.latest = Some(Box::new(key));
        Ok(())
    }

    /// A count that was superseded by another at its time.
    pub(crate) fn superseded(&self, key: &CountKey) -> Result<(), Wrong> {
        match &self.latest {
            Some(latest) if key.at > latest.at => Err("no other count at its time holds"),
            Some(latest) if key.at == latest.at && *key > **latest => {
                Err("it comes after the other count at its time by name, and should hold")
            }
            // Of counts before the latest none is kept: there the ledger's word is taken.
            Some(_) => Ok(()),
            None => Err("no other count holds"),
        }
    }

    /// The newest event time of the figure.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Takes the figure as stated, so that one error is not told again at every later decision.
    pub(crate) fn resync(&mut self, stated: i128) {
        self.expected = stated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(at: i64, id: &str) -> CountKey {
        CountKey {
            at,
            counted_at: at,
            source: "s".into(),
            id: id.into(),
        }
    }

    /// The example of the domain: on hand 10; a sale of 2 at 10:05; a count at 10:00 says 9; a late
    /// sale of 1 at 09:50 is absorbed; a late one of 1 at 10:02 is not.
    #[test]
    fn late_facts_are_absorbed_or_applied_by_their_time() {
        let mut fold = Fold::default();
        fold.moved(0, 10);
        fold.moved(1_005, -2);
        assert_eq!(fold.expected, 8);
        fold.counted(key(1_000, "a"), 9).unwrap();
        assert_eq!(fold.expected, 7);
        fold.moved(950, -1);
        assert_eq!(fold.expected, 7);
        fold.moved(1_002, -1);
        assert_eq!(fold.expected, 6);
    }

    #[test]
    fn of_counts_at_one_time_the_greatest_name_holds() {
        let mut fold = Fold::default();
        fold.counted(key(5, "b"), 4).unwrap();
        assert!(fold.superseded(&key(5, "a")).is_ok());
        assert!(fold.superseded(&key(5, "c")).is_err());
        assert!(fold.superseded(&key(6, "a")).is_err());
        assert!(fold.counted(key(5, "a"), 9).is_err());
        fold.counted(key(5, "c"), 6).unwrap();
        assert_eq!(fold.expected, 6);
        fold.counted(key(3, "z"), 100).unwrap();
        assert_eq!(fold.expected, 6);
    }

    #[test]
    fn facts_beyond_the_bound_are_summed_and_a_count_among_them_is_told() {
        let mut fold = Fold::default();
        for i in 0..10_000 {
            fold.moved(i * 60_000, 1);
        }
        assert_eq!(fold.expected, 10_000);
        assert!(fold.after.len() <= 2 * KEPT_MAX);
        let mut recent = fold.clone();
        recent.counted(key(9_998 * 60_000, "a"), 0).unwrap();
        assert_eq!((recent.expected, recent.inexact), (1, false));
        fold.counted(key(0, "a"), 0).unwrap();
        assert!(fold.inexact);
    }
}
