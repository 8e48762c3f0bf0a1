//! Which partitions of others shall be followed here: those that this instance is a standby of, or, while it
//! warms up, those that are going to be its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onhand_log::cluster::Membership;

/// How long it must be the same who is there and has what before other partitions are followed: who
/// restarts is back by then, and a standby that begins for a moment only would read its state in vain.
pub(crate) const SETTLED: Duration = Duration::from_secs(1);

/// Who is there, and who shall have what.
type Known = (Vec<Arc<str>>, Vec<Option<usize>>);

/// Looks at one membership after another.
#[derive(Debug)]
pub(crate) struct StandingBy {
    /// How many follow each partition.
    standbys: usize,
    known: Option<(Known, Instant)>,
    /// What follows from it, once it was asked for.
    wanted: Option<BTreeSet<u16>>,
}

impl StandingBy {
    pub(crate) fn new(standbys: usize) -> Self {
        Self {
            standbys,
            known: None,
            wanted: None,
        }
    }

    /// The partitions that this member shall follow. `None` where it is not clear for long enough who shall
    /// have what: then it stays as it is.
    pub(crate) fn wanted(&mut self, membership: &Membership) -> Option<BTreeSet<u16>> {
        if let Some(warm_up) = &membership.warm_up {
            return Some(warm_up.coming.clone());
        }
        let members = membership.members.iter().filter(|one| one.takes_part);
        let names = members.map(|one| Arc::clone(&one.name));
        let assigned = membership.places.iter().map(|place| place.assigned);
        let now: Known = (names.collect(), assigned.collect());
        let is_clear = now.1.iter().all(Option::is_some);
        let since = match &self.known {
            Some((known, since)) if *known == now => *since,
            _ => {
                let since = Instant::now();
                self.known = Some((now, since));
                self.wanted = None;
                since
            }
        };
        let me = membership.me.filter(|_| membership.ended.is_none())?;
        if !is_clear || since.elapsed() < SETTLED {
            return None;
        }
        let wanted = self.wanted.get_or_insert_with(|| {
            let standbys = (0..).zip(membership.standbys(self.standbys));
            let mine = standbys.filter(|(_, standbys)| standbys.contains(&me));
            mine.map(|(partition, _)| partition).collect()
        });
        Some(wanted.clone())
    }
}
