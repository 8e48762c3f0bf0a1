//! A clean log of two partitions, written by hand: deliveries, a count, late and repeated facts, a
//! reservation that is granted, shipped in part and confirmed, a parked command, a tick.
//!
//! Partition 0 owns the SKUs, partition 1 the reservation. Decisions of partition 0:
//!
//! | number | input | effect |
//! |---|---|---|
//! | 1 | receive 10 at 100 | on hand 10 |
//! | 2 | count 9 at 150 | correction -1 |
//! | 3 | ship 1 at 120, late | absorbed: on hand 9 |
//! | 4 | ask to hold 3 | reserved 3 |
//! | 5 | ship 1 of the reservation | reserved 2, on hand 8 |
//! | 6 | ask to confirm | committed 2 |
//! | 7 | 1 again | duplicate of 1 |
//! | 8 | 1's name with other content | invalid |
//! | 9, 10 | receive 1 with seq 5, twice | on hand 9; duplicate |
//! | 11 | item of another SKU: 2 decimals | |
//! | 12 | receive 1.5 of it, damaged | 150 damaged |
//! | 13 | move 0.5 of it to another location, as available | 100 and 50 |
//! | 14 | a command that is parked | |

use super::book::{Book, Entry, Letter, Moved, name, put};
use crate::pack::{VERSION, name_of};
use crate::wire::*;

pub(crate) const T: i64 = 1_000_000;

pub(crate) fn sku() -> &'static str {
    name("sku", 0, 2)
}

pub(crate) fn other_sku() -> &'static str {
    name("other", 0, 2)
}

pub(crate) fn reservation() -> &'static str {
    name("order", 1, 2)
}

pub(crate) fn whole(n: i64) -> Amount {
    Amount {
        mantissa: n,
        decimals: 0,
    }
}

pub(crate) fn command(id: &'static str, at: Option<i64>, body: Body<'static>) -> Input<'static> {
    Input::Command(Command {
        source: "till",
        id,
        seq: None,
        occurred_at: at.map(|at| T + at),
        reason: None,
        note: None,
        reference: None,
        data: None,
        body,
    })
}

pub(crate) fn fact(quantity: i64) -> Fact<'static> {
    Fact {
        sku: sku(),
        location: "main",
        quantity: whole(quantity),
        state: StateName::Available,
    }
}

pub(crate) fn moves(from: Place, to: Place, quantity: i64, kind: MovementKind) -> Movement {
    Movement {
        from,
        to,
        quantity,
        kind,
    }
}

pub(crate) fn level(
    location: u8,
    sequence: u64,
    [on_hand, reserved, committed, damaged]: [i64; 4],
) -> LevelAfter {
    LevelAfter {
        location,
        sequence,
        on_hand,
        reserved,
        committed,
        damaged,
        quality_control: 0,
    }
}

pub(crate) fn moved(
    event_time: Option<i64>,
    movements: Vec<Movement>,
    levels: Vec<LevelAfter>,
) -> Moved {
    Moved {
        event_time: event_time.map(|at| T + at),
        decimals: 0,
        locations: vec!["main"],
        movements,
        levels,
    }
}

pub(crate) fn applied() -> Option<Outcome<'static>> {
    Some(Outcome::Applied(Notes::default()))
}

/// asked, reserved, committed, shipped
pub(crate) fn held([asked, reserved, committed, shipped]: [i64; 4]) -> LineState<'static> {
    LineState {
        line: 1,
        location: "main",
        asked,
        reserved,
        committed,
        shipped,
        given_back: 0,
    }
}

pub(crate) fn hold(number: u64, at: i64, parts: [i64; 4]) -> HoldRecord<'static> {
    let [.., shipped] = parts;
    let directed = Directed {
        to: ShipTarget::Line(1),
        quantity: shipped,
    };
    HoldRecord {
        reservation: reservation(),
        lines: vec![held(parts)],
        undecided: Vec::new(),
        shipped: (shipped > 0).then_some(directed).into_iter().collect(),
        waiting: None,
        number,
        at: T + at,
    }
}

pub(crate) fn line([asked, reserved, committed, shipped]: [i64; 4]) -> ReservationLine<'static> {
    ReservationLine {
        line: 1,
        sku: sku(),
        requested: whole(3),
        location: Some("main"),
        decimals: 0,
        asked,
        reserved,
        committed,
        shipped,
        given_back: 0,
        given_back_by: None,
    }
}

pub(crate) fn step(number: u64, phase: Phase) -> Step<'static> {
    Step {
        number,
        by: None,
        phase,
        deadline: None,
        asks: vec![Asked {
            sku: sku(),
            heard: Heard::Nothing,
        }],
        status_before: Status::Granted,
        lines_before: Vec::new(),
        numbers: Vec::new(),
        refusal: None,
    }
}

/// `heard`: the decision of partition 0 that it took over last.
pub(crate) fn record(
    number: u64,
    status: Status,
    parts: [i64; 4],
    step: Option<Step<'static>>,
    heard: Option<u64>,
) -> ReservationRecord<'static> {
    let [_, reserved, ..] = parts;
    ReservationRecord {
        id: reservation(),
        source: "till",
        channel: None,
        status,
        lines: vec![line(parts)],
        created_at: T + 310,
        granted_at: (reserved > 0).then_some(T + 330),
        expires_at: (reserved > 0).then_some(T + 900_330),
        ended_at: None,
        commit: None,
        released_at: None,
        conflict: None,
        step,
        queue: Vec::new(),
        number,
        decided_by: heard
            .map(|number| DecidedBy {
                partition: 0,
                number,
            })
            .into_iter()
            .collect(),
    }
}

pub(crate) fn resolved(of: u64, id: &'static str, outcome: Outcome<'static>) -> Resolved<'static> {
    Resolved {
        of,
        name: name_of("till", id, reservation()),
        source: "till",
        id,
        reservation: reservation(),
        outcome,
    }
}

pub(crate) fn ask(number: u64, step: u64, kind: AskKind<'static>) -> Ask<'static> {
    Ask {
        from: 1,
        number,
        reservation: reservation(),
        sku: sku(),
        step,
        kind,
    }
}

/// An answer of that decision of partition 0.
pub(crate) fn answer(
    number: u64,
    decision: u64,
    step: Option<u64>,
    parts: [i64; 4],
) -> Answer<'static> {
    Answer {
        from: 0,
        number,
        decision,
        reservation: reservation(),
        sku: sku(),
        decimals: 0,
        step,
        lines: vec![held(parts)],
        verdict: Verdict::Done,
    }
}

pub(crate) fn hold_kind(quantity: i64) -> AskKind<'static> {
    AskKind::Hold {
        lines: vec![AskLine {
            line: 1,
            quantity: whole(quantity),
            location: Some("main"),
            given_back: 0,
        }],
        committed: false,
        partial: false,
        sole: true,
        waits: false,
        whole: false,
    }
}

use Place::{Available, Committed, Customer, Damaged, Loss, Reserved, Supplier};

pub(crate) fn clean() -> Book {
    let mut book = Book::new(2);
    stock_before(&mut book);
    reservation_decisions(&mut book);
    stock_after(&mut book);
    let mut parked = Entry::new(T + 500, command("14", None, Body::Receive(fact(1))));
    parked.outcome = Some(Outcome::Parked { panic: "planted" });
    let mut value = vec![VERSION];
    put(&mut value, &parked.input);
    book.decide(0, parked);
    book.letters.push(Letter {
        partition: 0,
        key: 14,
        value,
        origin: 13,
    });
    book.decide(1, Entry::new(T + 600, Input::Tick));
    state(&mut book);
    book
}

fn stock_before(book: &mut Book) {
    let mut entry = Entry::new(T + 110, command("1", Some(100), Body::Receive(fact(10))));
    entry.outcome = applied();
    entry.stock = Some(moved(
        Some(100),
        vec![moves(Supplier, Available(0), 10, MovementKind::Fact)],
        vec![level(0, 1, [10, 0, 0, 0])],
    ));
    book.decide(0, entry);

    let count = Body::Count {
        sku: sku(),
        location: "main",
        quantity: whole(9),
        figure: Figure::OnHand,
    };
    let mut entry = Entry::new(T + 200, command("2", Some(150), count));
    entry.outcome = applied();
    entry.count = Some(CountNote {
        location: 0,
        figure: Figure::OnHand,
        counted: 9,
        expected: 10,
        end: CountEnd::Applied,
        opening: false,
        merged_to: None,
    });
    let kind = MovementKind::Correction(Figure::OnHand);
    entry.stock = Some(moved(
        Some(150),
        vec![moves(Available(0), Loss, 1, kind)],
        vec![level(0, 2, [9, 0, 0, 0])],
    ));
    book.decide(0, entry);

    let ship = Body::Ship {
        fact: fact(1),
        reservation: None,
        line: None,
    };
    let mut entry = Entry::new(T + 300, command("3", Some(120), ship));
    entry.outcome = Some(Outcome::Applied(Notes {
        absorbed: true,
        ..Notes::default()
    }));
    let kind = MovementKind::Refold(Figure::OnHand, T + 150);
    entry.stock = Some(moved(
        Some(120),
        vec![
            moves(Available(0), Customer, 1, MovementKind::Fact),
            moves(Loss, Available(0), 1, kind),
        ],
        Vec::new(),
    ));
    book.decide(0, entry);

    let mut entry = Entry::new(T + 320, Input::Ask(ask(1, 1, hold_kind(3))));
    entry.stock = Some(moved(
        None,
        vec![moves(Available(0), Reserved(0), 3, MovementKind::Hold)],
        vec![level(0, 3, [9, 3, 0, 0])],
    ));
    entry.holds = vec![hold(4, 320, [3, 3, 0, 0])];
    entry.sends = vec![(1, SendWhat::Answer(answer(1, 4, Some(1), [3, 3, 0, 0])))];
    book.decide(0, entry);

    let ship = Body::Ship {
        fact: fact(1),
        reservation: Some(reservation()),
        line: Some(1),
    };
    let mut entry = Entry::new(T + 340, command("5", Some(335), ship));
    entry.outcome = Some(Outcome::Applied(Notes {
        hold: Some(1),
        ..Notes::default()
    }));
    entry.stock = Some(moved(
        Some(335),
        vec![
            moves(Available(0), Customer, 1, MovementKind::Fact),
            moves(Reserved(0), Available(0), 1, MovementKind::Hold),
        ],
        vec![level(0, 4, [8, 2, 0, 0])],
    ));
    entry.holds = vec![hold(5, 340, [3, 2, 0, 1])];
    entry.sends = vec![(1, SendWhat::Answer(answer(2, 5, None, [3, 2, 0, 1])))];
    book.decide(0, entry);

    let lines = vec![AskPart {
        line: 1,
        location: "main",
        quantity: 2,
    }];
    let kind = AskKind::Confirm { lines };
    let mut entry = Entry::new(T + 370, Input::Ask(ask(2, 4, kind)));
    entry.stock = Some(moved(
        None,
        vec![moves(Reserved(0), Committed(0), 2, MovementKind::Hold)],
        vec![level(0, 5, [8, 0, 2, 0])],
    ));
    entry.holds = vec![hold(6, 370, [3, 0, 2, 1])];
    entry.sends = vec![(1, SendWhat::Answer(answer(3, 6, Some(4), [3, 0, 2, 1])))];
    book.decide(0, entry);
}

fn reservation_decisions(book: &mut Book) {
    let reserve = Body::Reserve {
        reservation: reservation(),
        lines: vec![RequestLine {
            line: 1,
            sku: sku(),
            quantity: whole(3),
            location: Some("main"),
        }],
        ttl_s: None,
        channel: None,
        partial: false,
    };
    let mut entry = Entry::new(T + 310, command("r1", None, reserve));
    let asking = Some(step(1, Phase::Hold));
    entry.reservations = vec![record(1, Status::Pending, [0, 0, 0, 0], asking, None)];
    entry.sends = vec![(0, SendWhat::Ask(ask(1, 1, hold_kind(3))))];
    book.decide(1, entry);

    let heard = answer(1, 4, Some(1), [3, 3, 0, 0]);
    let mut entry = Entry::new(T + 330, Input::Answer(heard));
    entry.reservations = vec![record(2, Status::Granted, [3, 3, 0, 0], None, Some(4))];
    entry.resolved = vec![resolved(1, "r1", Outcome::Granted)];
    book.decide(1, entry);

    let mut entry = Entry::new(T + 350, Input::Answer(answer(2, 5, None, [3, 2, 0, 1])));
    entry.reservations = vec![record(3, Status::Granted, [3, 2, 0, 1], None, Some(5))];
    book.decide(1, entry);

    let confirm = Body::Confirm {
        reservation: reservation(),
        lines: None,
    };
    let mut entry = Entry::new(T + 360, command("r4", None, confirm));
    let asking = Some(step(4, Phase::Confirm));
    entry.reservations = vec![record(4, Status::Pending, [3, 2, 0, 1], asking, Some(5))];
    let lines = vec![AskPart {
        line: 1,
        location: "main",
        quantity: 2,
    }];
    entry.sends = vec![(0, SendWhat::Ask(ask(2, 4, AskKind::Confirm { lines })))];
    book.decide(1, entry);

    let heard = answer(3, 6, Some(4), [3, 0, 2, 1]);
    let mut entry = Entry::new(T + 380, Input::Answer(heard));
    entry.reservations = vec![record(5, Status::Confirmed, [3, 0, 2, 1], None, Some(6))];
    entry.resolved = vec![resolved(4, "r4", Outcome::Applied(Notes::default()))];
    book.decide(1, entry);
}

fn stock_after(book: &mut Book) {
    let again = command("1", Some(100), Body::Receive(fact(10)));
    let mut entry = Entry::new(T + 400, again);
    entry.outcome = Some(Outcome::Duplicate { first: 1 });
    book.decide(0, entry);

    let other = command("1", Some(100), Body::Receive(fact(11)));
    let mut entry = Entry::new(T + 410, other);
    entry.outcome = Some(Outcome::Invalid(Invalid {
        field: "id",
        reason: Reason::IdReused,
        first: 1,
    }));
    book.decide(0, entry);

    let mut numbered = command("9", Some(415), Body::Receive(fact(1)));
    if let Input::Command(command) = &mut numbered {
        command.seq = Some(5);
    }
    let mut entry = Entry::new(T + 420, numbered.clone());
    entry.outcome = applied();
    entry.stock = Some(moved(
        Some(415),
        vec![moves(Supplier, Available(0), 1, MovementKind::Fact)],
        vec![level(0, 6, [9, 0, 2, 0])],
    ));
    book.decide(0, entry);
    let mut entry = Entry::new(T + 430, numbered);
    entry.outcome = Some(Outcome::Duplicate { first: 0 });
    book.decide(0, entry);

    let item = Body::Item {
        sku: other_sku(),
        decimals: Some(2),
        unit: Some("KGM"),
        name: None,
    };
    let mut entry = Entry::new(T + 440, command("11", None, item));
    entry.outcome = applied();
    book.decide(0, entry);

    let damaged = Fact {
        sku: other_sku(),
        location: "main",
        quantity: Amount {
            mantissa: 15,
            decimals: 1,
        },
        state: StateName::Damaged,
    };
    let mut entry = Entry::new(T + 450, command("12", Some(450), Body::Receive(damaged)));
    entry.outcome = applied();
    entry.stock = Some(moved(
        Some(450),
        vec![moves(Supplier, Damaged(0), 150, MovementKind::Fact)],
        vec![level(0, 1, [150, 0, 0, 150])],
    ));
    book.decide(0, entry);
    let body = Body::Move {
        sku: other_sku(),
        quantity: Amount {
            mantissa: 5,
            decimals: 1,
        },
        from: StockPlace {
            location: "main",
            state: StateName::Damaged,
        },
        to: StockPlace {
            location: "shop",
            state: StateName::Available,
        },
    };
    let mut entry = Entry::new(T + 460, command("13", None, body));
    entry.outcome = applied();
    entry.stock = Some(Moved {
        locations: vec!["main", "shop"],
        ..moved(
            Some(460),
            vec![moves(Damaged(0), Available(1), 50, MovementKind::Fact)],
            vec![level(0, 2, [100, 0, 0, 100]), level(1, 1, [50, 0, 0, 0])],
        )
    });
    book.decide(0, entry);
    for number in [12, 13] {
        let stock = &mut book.entry(0, number).stock;
        stock.as_mut().expect("it moved something").decimals = 2;
    }
}

/// The changelog of partition 0 after its last decision.
fn state(book: &mut Book) {
    use crate::changelog::{Meta, PositionRecord, SkuRecord};
    let position = |[on_hand, committed, damaged]: [i64; 3], sequence, number| PositionRecord {
        on_hand,
        reserved: 0,
        committed,
        damaged,
        quality_control: 0,
        sequence,
        number,
        at: 0,
        oversold_since: None,
        entries: Vec::new(),
        counts: None,
    };
    let mut add = |key: Vec<u8>, variant: u8, bytes: Vec<u8>| {
        book.state[0].push((key, Some([vec![variant], bytes].concat())));
    };
    let of_sku = |kind: &[u8], sku: &str, what: &str| {
        let length = u16::try_from(sku.len()).unwrap().to_be_bytes();
        [kind, &length[..], sku.as_bytes(), what.as_bytes()].concat()
    };
    let positions = [
        (sku(), "main", position([9, 2, 0], 6, 9)),
        (other_sku(), "main", position([100, 0, 100], 2, 13)),
        (other_sku(), "shop", position([50, 0, 0], 1, 13)),
    ];
    for (sku, location, record) in positions {
        let bytes = postcard::to_allocvec(&record).unwrap();
        add(of_sku(b"p", sku, location), 5, bytes);
    }
    let declared = SkuRecord {
        decimals: 2,
        unit: None,
        name: None,
        newest_count: None,
        seqs: Vec::new(),
    };
    let bytes = postcard::to_allocvec(&declared).unwrap();
    add([b"s", other_sku().as_bytes()].concat(), 1, bytes);
    let held = hold(6, 370, [3, 0, 2, 1]);
    let bytes = postcard::to_allocvec(&held).unwrap();
    add(of_sku(b"h", sku(), reservation()), 2, bytes);
    let meta = Meta {
        number: 14,
        log_time: T + 500,
        peers: vec![(0, 0), (3, 2)],
        ids: (0, 0),
    };
    add(b"m".to_vec(), 0, postcard::to_allocvec(&meta).unwrap());
    book.state[0].push((Vec::new(), Some(13_i64.to_be_bytes().to_vec())));
}

pub(crate) fn second_reservation() -> &'static str {
    name("second", 1, 2)
}

/// A second reservation, of so many of the 7 available: decisions 15 of partition 0, 7 and 8 of
/// partition 1.
pub(crate) fn with_second(quantity: i64) -> Book {
    let mut book = clean();
    let id = second_reservation();
    let parts = [quantity, quantity, 0, 0];
    let reserve = Body::Reserve {
        reservation: id,
        lines: vec![RequestLine {
            line: 1,
            sku: sku(),
            quantity: whole(quantity),
            location: Some("main"),
        }],
        ttl_s: None,
        channel: None,
        partial: false,
    };
    let of = |record: ReservationRecord<'static>| ReservationRecord { id, ..record };
    let asked = Ask {
        reservation: id,
        ..ask(3, 7, hold_kind(quantity))
    };
    let told = Answer {
        reservation: id,
        ..answer(4, 15, Some(7), parts)
    };
    let mut entry = Entry::new(T + 610, command("r7", None, reserve));
    let asking = Some(step(7, Phase::Hold));
    entry.reservations = vec![of(record(7, Status::Pending, [0; 4], asking, None))];
    entry.sends = vec![(0, SendWhat::Ask(asked.clone()))];
    book.decide(1, entry);

    let mut entry = Entry::new(T + 620, Input::Ask(asked));
    entry.stock = Some(moved(
        None,
        vec![moves(
            Available(0),
            Reserved(0),
            quantity,
            MovementKind::Hold,
        )],
        vec![level(0, 7, [9, quantity, 2, 0])],
    ));
    let held = HoldRecord {
        reservation: id,
        ..hold(15, 620, parts)
    };
    entry.holds = vec![held];
    entry.sends = vec![(1, SendWhat::Answer(told.clone()))];
    book.decide(0, entry);

    let mut entry = Entry::new(T + 630, Input::Answer(told));
    let mut granted = of(record(8, Status::Granted, parts, None, Some(15)));
    for line in &mut granted.lines {
        line.requested = whole(quantity);
    }
    entry.reservations = vec![granted];
    entry.resolved = vec![Resolved {
        reservation: id,
        name: name_of("till", "r7", id),
        ..resolved(7, "r7", Outcome::Granted)
    }];
    book.decide(1, entry);
    book
}
