//! Who waits for which outcome, and the outcomes on their way to them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::processor::{AnswerTo, Delivery, Ticket};

/// What a caller is told whose append did not end well.
pub(crate) const FAILED: &str =
    "it is not known whether this took effect; send it again with the same id";

/// Who waits for what, on one worker.
#[derive(Default)]
pub(crate) struct Tickets {
    /// By the number that a submitted record bears.
    open: HashMap<u64, OpenTicket>,
    /// (partition, number of the command) to the ticket's number.
    pending: HashMap<(u16, u64), u64>,
}

struct OpenTicket {
    partition: u16,
    ticket: Arc<dyn Ticket>,
    pending: u32,
    answered: bool,
}

impl Tickets {
    pub(crate) fn open(&mut self, partition: u16, number: u64, ticket: Arc<dyn Ticket>) {
        self.open.insert(
            number,
            OpenTicket {
                partition,
                ticket,
                pending: 0,
                answered: false,
            },
        );
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes a ticket back that never got into the log.
    pub(crate) fn withdraw(&mut self, number: u64) -> Option<Arc<dyn Ticket>> {
        self.open.remove(&number).map(|open| open.ticket)
    }

    /// Tells everybody who waits for a partition that stopped.
    pub(crate) fn fail_partition(&mut self, partition: u16) {
        for ticket in self.take_partition(partition) {
            ticket.failed(FAILED);
        }
    }

    /// Forgets everybody who waits for that partition, and says who that was.
    pub(crate) fn take_partition(&mut self, partition: u16) -> Vec<Arc<dyn Ticket>> {
        self.pending.retain(|(at, _), _| *at != partition);
        let open = self.open.extract_if(|_, open| open.partition == partition);
        open.map(|(_, open)| open.ticket).collect()
    }

    pub(crate) fn waits_for(&self, partition: u16) -> bool {
        self.open.values().any(|open| open.partition == partition)
    }

    pub(crate) fn drain(&mut self) -> Vec<Arc<dyn Ticket>> {
        self.pending.clear();
        self.open.drain().map(|(_, open)| open.ticket).collect()
    }

    pub(crate) fn pend(&mut self, partition: u16, number: u64, ticket: u64) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.pending += 1;
            self.pending.insert((partition, number), ticket);
        }
    }

    pub(crate) fn answer(&mut self, partition: u16, to: AnswerTo) -> Option<Arc<dyn Ticket>> {
        let number = match to {
            AnswerTo::Ticket(number) => number,
            AnswerTo::Pending(of) => self.pending.remove(&(partition, of))?,
        };
        let open = self.open.get_mut(&number)?;
        match to {
            AnswerTo::Ticket(_) => open.answered = true,
            AnswerTo::Pending(_) => open.pending -= 1,
        }
        let ticket = Arc::clone(&open.ticket);
        if open.answered && open.pending == 0 {
            self.open.remove(&number);
        }
        Some(ticket)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("open", &self.open.len())
            .field("pending", &self.pending.len())
            .finish()
    }
}

/// Answers that leave once the append under them is durable. Dropped instead, also with an append that
/// is refused, they are told as failed.
#[derive(Default)]
pub(crate) struct Deliveries(Vec<(Arc<dyn Ticket>, Delivery)>);

impl Deliveries {
    pub(crate) fn push(&mut self, ticket: Arc<dyn Ticket>, delivery: Delivery) {
        self.0.push((ticket, delivery));
    }

    pub(crate) fn deliver(mut self) {
        for (ticket, delivery) in std::mem::take(&mut self.0) {
            ticket.deliver(delivery);
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        for (ticket, _) in &self.0 {
            ticket.failed(FAILED);
        }
    }
}
