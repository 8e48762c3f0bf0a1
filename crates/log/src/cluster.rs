//! Who owns which partitions when several instances share a log.
//!
//! An **instance** is a process with a name. Each run of it is a **member** of its own: a restarted
//! instance is another member of the same name. Every partition is **assigned** to one member at a
//! time, and **held** by the member that claimed it last and has not given it up. A partition moves
//! so: it is assigned to somebody else; its holder finishes what it began and gives its names up
//! ([`Log::give_up`](crate::Log::give_up)), or is dead and gets fenced; the new one claims them.
//!
//! What an engine promises: a member that is fenced, or that is not in the newest membership any more,
//! can write nothing. Who is told what, and when, decides only who is disturbed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One run of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The instance's name, as its operator gave it. No two live members have the same.
    pub name: Arc<str>,
    /// Which run of the instance: differs for each.
    pub incarnation: Arc<str>,
    /// Where it answers requests, `host:port`.
    pub address: Arc<str>,
}

/// Where one partition is, as indices into [`Membership::members`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Who shall own it.
    pub assigned: Option<usize>,
    /// Who claimed it last and has not given it up. It may still be restoring.
    pub holder: Option<usize>,
}

/// What an instance knows of all of them at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Rises with every change that this instance heard of.
    pub version: u64,
    /// The live ones, by name.
    pub members: Vec<Member>,
    /// This member's index; `None` before it joined, and once its run has ended.
    pub me: Option<usize>,
    /// By partition.
    pub places: Vec<Place>,
    /// Why this member's run has ended: it was silent for too long, or another process has its name.
    /// It can write nothing more; the instance may join anew.
    pub ended: Option<Ended>,
}

/// Why a member's run has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The others heard nothing from it for too long, and took what it had. It may join anew.
    Silent,
    /// Another process joined under its name. It must not join again, or the two would take turns.
    Replaced,
    /// It left by itself.
    Left,
}

impl Membership {
    /// Whether that partition is this member's to own.
    pub fn is_mine(&self, partition: u16) -> bool {
        let place = self.places.get(usize::from(partition));
        self.me.is_some() && place.is_some_and(|place| place.assigned == self.me)
    }

    /// The member that answers for that partition: who holds it, or who shall own it where nobody does.
    pub fn answers(&self, partition: u16) -> Option<&Member> {
        let place = self.places.get(usize::from(partition))?;
        self.members.get(place.holder.or(place.assigned)?)
    }
}

/// A member's view of its cluster. Dropping it does not leave.
pub trait Cluster: Send + Sync + fmt::Debug {
    /// As it is known now.
    fn membership(&self) -> Arc<Membership>;

    /// Waits until a membership of a version other than `seen` is known, for `patience` at most, and
    /// gives the newest.
    fn wait(&self, seen: u64, patience: Duration) -> Arc<Membership>;

    /// Tells the others that this member goes: nothing is assigned to it any more. What it holds it
    /// must still give up, or it is fenced after a while.
    ///
    /// # Errors
    /// Why the others could not be told, in words. They find out by its silence.
    fn leave(&self) -> Result<(), String>;
}

/// The cluster of an instance that has its log for itself: every partition is its own.
#[derive(Debug)]
pub struct Alone(Arc<Membership>);

impl Alone {
    /// All of that many partitions are this instance's.
    pub fn new(name: &str, address: &str, partitions: u16) -> Self {
        let place = Place {
            assigned: Some(0),
            holder: Some(0),
        };
        Self(Arc::new(Membership {
            version: 1,
            members: vec![Member {
                name: name.into(),
                incarnation: name.into(),
                address: address.into(),
            }],
            me: Some(0),
            places: vec![place; usize::from(partitions)],
            ended: None,
        }))
    }
}

impl Cluster for Alone {
    fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.0)
    }

    fn wait(&self, _seen: u64, patience: Duration) -> Arc<Membership> {
        std::thread::sleep(patience);
        self.membership()
    }

    fn leave(&self) -> Result<(), String> {
        Ok(())
    }
}
