//! A reservation's lines: taken over as the owners of the SKUs state them, and read as a status.

use crate::command::RequestLine;
use crate::decision::LineState;
use crate::reservation::{DecidedBy, GivenBackBy, ReservationLine, ReservationRecord, Status};
use crate::values::{Amount, Quantity, Sku, Time};

impl<'a> ReservationLine<'a> {
    /// A line of which nothing is held yet.
    pub(crate) fn new(line: &RequestLine<'a>) -> Self {
        Self {
            line: line.line,
            sku: line.sku.clone(),
            requested: line.quantity,
            location: line.location.clone(),
            decimals: 0,
            asked: Quantity::ZERO,
            reserved: Quantity::ZERO,
            committed: Quantity::ZERO,
            shipped: Quantity::ZERO,
            given_back: Quantity::ZERO,
            given_back_by: None,
        }
    }

    /// What is held of it.
    pub(crate) fn open(&self) -> i64 {
        self.reserved.0 + self.committed.0
    }

    /// What of it cannot be taken back by asking for less.
    pub(crate) fn done(&self) -> i64 {
        self.committed.0 + self.shipped.0
    }

    /// What is asked of it now: held or shipped.
    pub(crate) fn net(&self) -> i64 {
        self.asked.0 - self.given_back.0
    }

    /// Whether a statement's line is this one: its location may be left open.
    pub(crate) fn is(&self, request: &RequestLine<'_>) -> bool {
        self.line == request.line
            && self.sku == request.sku
            && request
                .location
                .as_ref()
                .is_none_or(|named| self.location.as_ref() == Some(named))
    }

    /// Whether it is the same line, as it stood at another time.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.line == other.line && self.sku == other.sku && self.location == other.location
    }

    fn take(&mut self, stated: &LineState<'a>) {
        self.location = Some(stated.location.clone());
        self.asked = stated.asked;
        self.reserved = stated.reserved;
        self.committed = stated.committed;
        self.shipped = stated.shipped;
        self.given_back = stated.given_back;
    }

    fn clear(&mut self) {
        self.asked = Quantity::ZERO;
        self.reserved = Quantity::ZERO;
        self.committed = Quantity::ZERO;
        self.shipped = Quantity::ZERO;
        self.given_back = Quantity::ZERO;
    }
}

impl<'a> ReservationRecord<'a> {
    /// Takes over the lines on a SKU as its owner states them.
    pub(crate) fn take_lines(&mut self, sku: &Sku<'a>, decimals: u8, stated: &[LineState<'a>]) {
        let mut left: Vec<&LineState<'a>> = stated.iter().collect();
        // A line whose place is known takes what is stated for that place; only then comes one whose
        // place the owner of the SKU has chosen.
        for placed in [true, false] {
            for line in self.lines.iter_mut().filter(|line| line.sku == *sku) {
                if line.location.is_some() != placed {
                    continue;
                }
                let found = left.iter().position(|stated| {
                    let there = line
                        .location
                        .as_ref()
                        .is_none_or(|at| *at == stated.location);
                    stated.line == line.line && there
                });
                line.decimals = decimals;
                match found {
                    Some(i) => line.take(left.remove(i)),
                    None => line.clear(),
                }
            }
        }
        for stated in left {
            if stated.reserved.is_zero() && stated.committed.is_zero() && stated.shipped.is_zero() {
                continue;
            }
            let mut line = ReservationLine::new(&RequestLine {
                line: stated.line,
                sku: sku.clone(),
                quantity: Amount::whole(0),
                location: None,
            });
            line.decimals = decimals;
            line.take(stated);
            self.lines.push(line);
        }
        self.lines
            .retain(|line| line.requested.mantissa != 0 || line.asked.0 > 0);
        self.sort_lines();
    }

    /// Notes how far the owner of a line has come. What it sends comes in the order of its decisions,
    /// so the last is the highest, whichever of its SKUs it is about.
    pub(crate) fn note_owner(&mut self, partition: u16, number: u64) {
        let heard = DecidedBy { partition, number };
        match self
            .decided_by
            .binary_search_by_key(&partition, |owner| owner.partition)
        {
            Ok(i) => *self.decided_by.get_mut(i).expect("it was found there") = heard,
            Err(i) => self.decided_by.insert(i, heard),
        }
    }

    /// The order is now what a command states; what it does not name is asked no more.
    pub(crate) fn take_statement(&mut self, statement: &[RequestLine<'a>]) {
        for line in &mut self.lines {
            line.requested = Amount::whole(0);
        }
        for request in statement {
            // Should a line have moved, the place where it is held or has shipped is meant.
            let found = self
                .lines
                .iter()
                .position(|line| line.is(request) && line.net() > 0);
            let found = found.or_else(|| self.lines.iter().position(|line| line.is(request)));
            match found.and_then(|i| self.lines.get_mut(i)) {
                Some(line) => line.requested = request.quantity,
                None => self.lines.push(ReservationLine::new(request)),
            }
        }
        self.drop_lines();
    }

    /// Lines that are not asked for, hold nothing and have shipped nothing are of no use to anybody.
    pub(crate) fn drop_lines(&mut self) {
        self.lines.retain(|line| {
            line.requested.mantissa != 0 || line.open() > 0 || !line.shipped.is_zero()
        });
        self.sort_lines();
    }

    fn sort_lines(&mut self) {
        self.lines
            .sort_by(|a, b| (a.line, &a.sku, &a.location).cmp(&(b.line, &b.sku, &b.location)));
    }

    /// Reads the status off the lines, after something happened; `end` says what it is when nothing
    /// is open any more.
    pub(crate) fn read_status(&mut self, end: Status, at: Time) {
        self.drop_lines();
        let reserved = self.lines.iter().any(|line| line.reserved.0 > 0);
        let committed = self.lines.iter().any(|line| line.committed.0 > 0);
        self.status = match (reserved, committed) {
            (true, _) => Status::Granted,
            (false, true) => Status::Confirmed,
            (false, false) => end,
        };
        if !reserved {
            self.expires_at = None;
        }
        self.ended_at = match (self.status.ended(), self.ended_at) {
            (false, _) => None,
            (true, None) => Some(at),
            (true, before) => before,
        };
    }

    /// Notes why more is given back than before; says whether anything is.
    pub(crate) fn note_given_back(
        &mut self,
        before: &[ReservationLine<'a>],
        by: GivenBackBy,
    ) -> bool {
        let mut more = false;
        for line in &mut self.lines {
            let known = before.iter().find(|before| before.same(line));
            if line.given_back > known.map_or(Quantity::ZERO, |known| known.given_back) {
                line.given_back_by = Some(by);
                more = true;
            }
        }
        more
    }
}
