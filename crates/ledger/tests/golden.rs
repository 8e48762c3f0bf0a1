//! Stock commands as a warehouse person would say them, and what comes of them.
//!
//! A script lies in `tests/scripts/<topic>/<case>.txt`: commands, `---`, what is expected. Run with
//! `ONHAND_REWRITE=1` to write the expected part anew, then read the difference. Each script runs on
//! one partition and on four, and must say the same on both.
//!
//! ```text
//! # a remark
//! known only                                     # a setting: SKUs and locations must be known
//! truth erp                                      # a setting: this source may `set`
//! now 10:10                                      # the time of intake, on the first day
//! now 10:10 day 4
//! receive SKU LOCATION QUANTITY [STATE] CLAUSES  # also ship, return, adjust, count
//! move SKU QUANTITY from LOCATION [STATE] to LOCATION [STATE] CLAUSES
//! set SKU LOCATION QUANTITY [expecting N] CLAUSES
//! item SKU [decimals N] [unit U] [name N] CLAUSES
//! reserve RESERVATION [#LINE] SKU QUANTITY [LOCATION], ... [ttl S] [partial] [channel C] CLAUSES
//! commit RESERVATION [#LINE] SKU QUANTITY LOCATION, ... [channel C] CLAUSES
//! confirm RESERVATION [#LINE [QUANTITY], ...] CLAUSES    # also release
//! extend RESERVATION [ttl S] CLAUSES
//! pause                                          # records between owners are held up
//! deliver                                        # and now they arrive
//! ```
//! CLAUSES, in any order: `at TIME [day N]` (when it happened), `by SOURCE/ID` (default `clerk/` and the
//! line), `reason WORD`, `seq N`, and for a ship `for RESERVATION [line N]`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops where it breaks, and may be told by the environment to rewrite"
)]

mod support;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use onhand_ledger::{
    Amount, Body, Command, Conflict, CountEnd, Decision, Fact, Figure, Input, LinePart,
    MovementKind, Notes, Outcome, Place, Rejection, RequestLine, Settings, StateName, StockPlace,
    Time,
};
use support::World;

const DAY_MS: i64 = 24 * 3_600_000;

#[test]
fn scripts_say_what_they_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<PathBuf> = Vec::new();
    for topic in fs::read_dir(&root).unwrap() {
        let topic = topic.unwrap().path();
        files.extend(
            fs::read_dir(topic)
                .unwrap()
                .map(|case| case.unwrap().path()),
        );
    }
    files.sort();
    assert!(!files.is_empty(), "there are scripts in {}", root.display());
    let mut wrong = String::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (script, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let said = run(script, 1);
        let said_by_four = run(script, 4);
        assert_eq!(
            said,
            said_by_four,
            "{}: on one partition and on four",
            file.display()
        );
        if std::env::var("ONHAND_REWRITE").is_ok() {
            fs::write(&file, format!("{script}---\n{said}")).unwrap();
        } else if said != expected {
            writeln!(
                wrong,
                "{}\n-- expected\n{expected}-- said\n{said}",
                file.display()
            )
            .unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}ONHAND_REWRITE=1 writes the expected parts anew"
    );
}

/// What a script leads to, as text.
fn run(script: &str, partitions: u16) -> String {
    let mut settings = Settings::default();
    let mut lines = Vec::new();
    for (number, line) in script.lines().enumerate() {
        let line = line.split(" #").next().unwrap().trim_end();
        let line = if line.starts_with('#') { "" } else { line };
        // A line of a reservation is written `#1`, so a remark needs a space after its `#`.
        let full = script.lines().nth(number).unwrap();
        let line = if is_reservation(line) {
            without_remark(full)
        } else {
            line
        };
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => {}
            ["known", "only"] => settings.known_only = true,
            ["truth", source] => settings.truth.push((*source).to_owned().into()),
            words => lines.push((number + 1, words.to_vec())),
        }
    }
    let mut world = World::new(partitions, settings);
    world.now = Time(10 * 3_600_000);
    let mut out = String::new();
    let mut paused = false;
    for (number, words) in lines {
        match words.as_slice() {
            ["now", rest @ ..] => {
                world.now = time(&mut Words::new(rest));
                world.tick(&mut |decision| resolved(&mut out, decision));
            }
            ["pause"] => paused = true,
            ["deliver"] => {
                paused = false;
                world.settle(&mut |decision| resolved(&mut out, decision));
            }
            words => {
                let id = number.to_string();
                let command = parse(words, &id);
                world.now = world.now.plus(1);
                let decision = world.give(command);
                said(&mut out, &decision);
                resolved(&mut out, &decision);
                if !paused {
                    world.settle(&mut |decision| resolved(&mut out, decision));
                }
            }
        }
    }
    assert!(
        world.inbox.is_empty(),
        "a script ends with everything delivered"
    );
    world.check_restores();
    ends(&mut out, &mut world);
    out
}

fn is_reservation(line: &str) -> bool {
    ["reserve ", "commit ", "confirm ", "release "]
        .iter()
        .any(|word| line.starts_with(word))
}

fn without_remark(line: &str) -> &str {
    line.split(" # ").next().unwrap().trim_end()
}

// --- reading -------------------------------------------------------------------------------------

/// The words of a line, taken from the front.
struct Words<'w> {
    words: &'w [&'w str],
}

impl<'w> Words<'w> {
    fn new(words: &'w [&'w str]) -> Self {
        Self { words }
    }

    fn next(&mut self) -> &'w str {
        let (first, rest) = self
            .words
            .split_first()
            .expect("a word is missing at the end");
        self.words = rest;
        first
    }

    /// Takes that word, if it is next.
    fn take(&mut self, word: &str) -> bool {
        let is = self.words.first() == Some(&word);
        if is {
            self.next();
        }
        is
    }

    fn number<T: std::str::FromStr>(&mut self) -> T {
        let word = self.next().trim_end_matches(',');
        word.parse()
            .unwrap_or_else(|_| panic!("`{word}` is not a number"))
    }

    fn amount(&mut self) -> Amount {
        let word = self.next().trim_end_matches(',');
        let (whole, part) = word.split_once('.').unwrap_or((word, ""));
        Amount {
            mantissa: format!("{whole}{part}").parse().unwrap(),
            decimals: u8::try_from(part.len()).unwrap(),
        }
    }

    fn state(&mut self) -> StateName {
        match self.words.first() {
            Some(&"damaged") => {
                self.next();
                StateName::Damaged
            }
            Some(&"quality_control") => {
                self.next();
                StateName::QualityControl
            }
            _ => StateName::Available,
        }
    }

    fn stock_place(&mut self) -> StockPlace<'w> {
        StockPlace {
            location: self.next().into(),
            state: self.state(),
        }
    }

    fn fact(&mut self) -> Fact<'w> {
        Fact {
            sku: self.next().into(),
            location: self.next().into(),
            quantity: self.amount(),
            state: self.state(),
        }
    }

    /// The lines of `reserve` and `commit`.
    fn request_lines(&mut self) -> Vec<RequestLine<'w>> {
        let mut lines = Vec::new();
        loop {
            let mut word = self.next();
            let mut line = u32::try_from(lines.len()).unwrap() + 1;
            if let Some(number) = word.strip_prefix('#') {
                line = number.parse().unwrap();
                word = self.next();
            }
            let last = self.words.first().is_some_and(|q| q.ends_with(','));
            let quantity = self.amount();
            let mut line = RequestLine {
                line,
                sku: word.into(),
                quantity,
                location: None,
            };
            let clauses = ["ttl", "partial", "channel", "at", "by", "reason", "seq"];
            let named = !last
                && self
                    .words
                    .first()
                    .is_some_and(|word| !clauses.contains(word));
            let mut more = last;
            if named {
                let location = self.next();
                more = location.ends_with(',');
                line.location = Some(location.trim_end_matches(',').into());
            }
            lines.push(line);
            if !more {
                return lines;
            }
        }
    }

    /// The parts of `confirm` and `release`.
    fn parts(&mut self) -> Option<Vec<LinePart>> {
        let mut parts = Vec::new();
        while let Some(word) = self.words.first().and_then(|word| word.strip_prefix('#')) {
            self.next();
            let line = word.trim_end_matches(',').parse().unwrap();
            let digits = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
            let quantity = if !word.ends_with(',') && self.words.first().is_some_and(digits) {
                Some(self.amount())
            } else {
                None
            };
            parts.push(LinePart { line, quantity });
        }
        (!parts.is_empty()).then_some(parts)
    }
}

/// `HH:MM[:SS[.mmm]] [day N]`
fn time(words: &mut Words<'_>) -> Time {
    let clock = words.next();
    let mut parts = clock.split(':');
    let mut part = || parts.next().unwrap_or("0");
    let (hours, minutes, seconds) = (part(), part(), part());
    let (seconds, millis) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let number = |text: &str| -> i64 { text.parse().unwrap() };
    let ms =
        ((number(hours) * 60 + number(minutes)) * 60 + number(seconds)) * 1_000 + number(millis);
    let day = if words.take("day") {
        words.number::<i64>()
    } else {
        1
    };
    Time(ms + (day - 1) * DAY_MS)
}

fn parse<'w>(words: &'w [&'w str], line: &'w str) -> Command<'w> {
    let mut words = Words::new(words);
    let body = body(&mut words);
    let mut command = support::command("clerk", line, None, body);
    while let Some(word) = words.words.first() {
        words.next();
        match *word {
            "at" => command.occurred_at = Some(time(&mut words)),
            "by" => {
                let (source, id) = words.next().split_once('/').expect("by SOURCE/ID");
                (command.source, command.id) = (source.into(), id.into());
            }
            "reason" => command.reason = Some(words.next().into()),
            "seq" => command.seq = Some(words.number()),
            "for" => {
                let Body::Ship {
                    reservation, line, ..
                } = &mut command.body
                else {
                    panic!("only a ship is for a reservation")
                };
                *reservation = Some(words.next().into());
                if words.take("line") {
                    *line = Some(words.number());
                }
            }
            other => panic!("`{other}` in line {line} is not a clause"),
        }
    }
    command
}

fn body<'w>(words: &mut Words<'w>) -> Body<'w> {
    match words.next() {
        "receive" => Body::Receive(words.fact()),
        "ship" => Body::Ship {
            fact: words.fact(),
            reservation: None,
            line: None,
        },
        "return" => Body::Return(words.fact()),
        "adjust" => Body::Adjust(words.fact()),
        "count" => {
            let Fact {
                sku,
                location,
                quantity,
                state,
            } = words.fact();
            let figure = match state {
                StateName::Available => Figure::OnHand,
                StateName::Damaged => Figure::Damaged,
                StateName::QualityControl => Figure::QualityControl,
            };
            Body::Count {
                sku,
                location,
                quantity,
                figure,
            }
        }
        "move" => {
            let (sku, quantity) = (words.next().into(), words.amount());
            assert!(words.take("from"), "move SKU QUANTITY from");
            let from = words.stock_place();
            assert!(words.take("to"), "move SKU QUANTITY from ... to");
            Body::Move {
                sku,
                quantity,
                from,
                to: words.stock_place(),
            }
        }
        "set" => {
            let (sku, location) = (words.next().into(), words.next().into());
            let quantity = words.amount();
            let expected = words.take("expecting").then(|| words.amount());
            Body::Set {
                sku,
                location,
                quantity,
                expected,
            }
        }
        "item" => {
            let sku = words.next().into();
            let decimals = words.take("decimals").then(|| words.number());
            let unit = words.take("unit").then(|| words.next().into());
            let name = words.take("name").then(|| words.next().into());
            Body::Item {
                sku,
                decimals,
                unit,
                name,
            }
        }
        "reserve" => {
            let (reservation, lines) = (words.next().into(), words.request_lines());
            let ttl_s = words.take("ttl").then(|| words.number());
            let partial = words.take("partial");
            let channel = words.take("channel").then(|| words.next().into());
            Body::Reserve {
                reservation,
                lines,
                ttl_s,
                channel,
                partial,
            }
        }
        "commit" => {
            let (reservation, lines) = (words.next().into(), words.request_lines());
            let channel = words.take("channel").then(|| words.next().into());
            Body::Commit {
                reservation,
                lines,
                channel,
            }
        }
        "confirm" => Body::Confirm {
            reservation: words.next().into(),
            lines: words.parts(),
        },
        "release" => Body::Release {
            reservation: words.next().into(),
            lines: words.parts(),
        },
        "extend" => Body::Extend {
            reservation: words.next().into(),
            ttl_s: words.take("ttl").then(|| words.number()),
        },
        other => panic!("`{other}` is not a command"),
    }
}

// --- saying --------------------------------------------------------------------------------------

/// The outcome of a decision's own command, and what moved.
fn said(out: &mut String, decision: &Decision<'_>) {
    let Input::Command(command) = &decision.input else {
        return;
    };
    write!(out, "{}/{}: ", command.source, command.id).unwrap();
    match &decision.outcome {
        Some(o) => outcome(out, o, decision.decimals),
        None => out.push_str("taken in"),
    }
    out.push('\n');
    if let Some(count) = &decision.count {
        let end = match count.end {
            CountEnd::Applied => "",
            CountEnd::Superseded => ", superseded",
            CountEnd::NotApplied => ", not applied",
        };
        let kind = if count.opening { "opening" } else { "counted" };
        let what = figure(count.figure);
        let (counted, expected) = (count.counted, count.expected);
        write!(
            out,
            "    {what} {kind} {counted}, ledger said {expected}{end}"
        )
        .unwrap();
        if let Some(to) = count.merged_to {
            write!(out, ", taken at {}", clock(to)).unwrap();
        }
        out.push('\n');
    }
    for movement in decision
        .movements
        .iter()
        .filter(|m| m.kind != MovementKind::Hold)
    {
        let place = |place| place_name(decision, place);
        let (from, to) = (place(movement.from), place(movement.to));
        write!(out, "    {} from {from} to {to}", movement.quantity).unwrap();
        match movement.kind {
            MovementKind::Correction(_) => out.push_str(" (correction)"),
            MovementKind::Refold(figure, at) => {
                let figure = self::figure(figure);
                write!(out, " (the correction of {figure} at {} again)", clock(at)).unwrap();
            }
            MovementKind::Fact | MovementKind::Hold => {}
        }
        out.push('\n');
    }
}

/// Outcomes that a decision brought to earlier commands.
fn resolved(out: &mut String, decision: &Decision<'_>) {
    for resolved in &decision.resolved {
        write!(out, "{}/{}: ", resolved.source, resolved.id).unwrap();
        outcome(out, &resolved.outcome, 0);
        out.push('\n');
    }
}

fn outcome(out: &mut String, outcome: &Outcome<'_>, decimals: u8) {
    match outcome {
        Outcome::Applied(Notes {
            created,
            clock_ahead_s,
            hold,
            absorbed,
        }) => {
            out.push_str("applied");
            if *created {
                out.push_str(", created");
            }
            if let Some(s) = clock_ahead_s {
                write!(out, ", clock {s} s ahead").unwrap();
            }
            if let Some(hold) = hold {
                write!(out, ", {hold} met a hold").unwrap();
            }
            if *absorbed {
                out.push_str(", absorbed");
            }
            if decimals > 0 {
                write!(out, ", {decimals} decimals").unwrap();
            }
        }
        Outcome::Granted => out.push_str("granted"),
        Outcome::Rejected(Rejection { reason, lines }) => {
            write!(out, "rejected {reason:?}").unwrap();
            for line in lines {
                let at = line
                    .location
                    .as_ref()
                    .map(|l| format!(" {l}"))
                    .unwrap_or_default();
                write!(
                    out,
                    "\n    #{} {}{at}: asked {}, there are {} ({:?})",
                    line.line, line.sku, line.requested, line.available, line.reason
                )
                .unwrap();
            }
        }
        Outcome::Duplicate { .. } => out.push_str("duplicate"),
        Outcome::Invalid(invalid) => {
            write!(out, "invalid {}: {:?}", invalid.field, invalid.reason).unwrap();
        }
        Outcome::Parked { panic } => write!(out, "parked: {panic}").unwrap(),
    }
}

/// What stands at the end: levels, reservations, conflicts.
fn ends(out: &mut String, world: &mut World) {
    for ((sku, location), [on_hand, reserved, committed, damaged, quality_control]) in
        world.levels()
    {
        let available = on_hand - reserved - committed - damaged - quality_control;
        write!(
            out,
            "{sku} {location}: on hand {on_hand}, available {available}"
        )
        .unwrap();
        let rest = [
            ("reserved", reserved),
            ("committed", committed),
            ("damaged", damaged),
            ("quality control", quality_control),
        ];
        for (name, quantity) in rest.into_iter().filter(|(_, quantity)| *quantity != 0) {
            write!(out, ", {name} {quantity}").unwrap();
        }
        out.push('\n');
    }
    let mut reservations = Vec::new();
    let mut conflicts = Vec::new();
    for state in &mut world.states {
        let ids = state.reservations(None, usize::MAX);
        reservations.extend(ids.iter().map(|id| state.reservation(id.as_str()).unwrap()));
        conflicts.extend(state.conflicts(None, usize::MAX).iter().map(conflict));
        conflicts.extend(
            state
                .reservation_conflicts(None, usize::MAX)
                .iter()
                .map(conflict),
        );
    }
    reservations.sort_by(|a, b| a.id.cmp(&b.id));
    for reservation in reservations {
        write!(out, "{}: {:?}", reservation.id, reservation.status).unwrap();
        if let Some(at) = reservation.expires_at {
            write!(out, " until {}", clock(at)).unwrap();
        }
        for line in &reservation.lines {
            let at = line
                .location
                .as_ref()
                .map(|l| format!(" {l}"))
                .unwrap_or_default();
            write!(out, "; #{} {}{at}", line.line, line.sku).unwrap();
            let parts = [
                ("reserved", line.reserved),
                ("committed", line.committed),
                ("shipped", line.shipped),
                ("given back", line.given_back),
            ];
            for (name, quantity) in parts.into_iter().filter(|(_, quantity)| quantity.0 != 0) {
                write!(out, " {quantity} {name}").unwrap();
            }
        }
        out.push('\n');
    }
    conflicts.sort();
    for conflict in conflicts {
        writeln!(out, "conflict: {conflict}").unwrap();
    }
}

fn conflict(conflict: &Conflict) -> String {
    match conflict {
        Conflict::Drift {
            sku,
            location,
            figure,
            counted_at,
            counted,
            expected,
            source,
            id,
            ..
        } => {
            let (figure, at) = (self::figure(*figure), clock(*counted_at));
            format!(
                "drift {sku} {location}: {figure} counted {counted} at {at} by {source}/{id}, ledger \
                 said {expected}"
            )
        }
        Conflict::Oversell {
            sku,
            location,
            available,
            on_hand,
            since,
            ..
        } => format!(
            "oversell {sku} {location}: available {available} of {on_hand} on hand since {}",
            clock(*since)
        ),
        Conflict::CommitAfterRelease {
            reservation,
            source,
            id,
            at,
        } => {
            format!(
                "committed after release: {reservation} by {source}/{id} at {}",
                clock(*at)
            )
        }
    }
}

fn figure(figure: Figure) -> &'static str {
    match figure {
        Figure::OnHand => "on hand",
        Figure::Damaged => "damaged",
        Figure::QualityControl => "quality control",
    }
}

fn place_name(decision: &Decision<'_>, place: Place) -> String {
    let at = |location: u8| decision.locations[usize::from(location)].as_str();
    match place {
        Place::Supplier => "supplier".to_owned(),
        Place::Customer => "customer".to_owned(),
        Place::Loss => "loss".to_owned(),
        Place::Available(l) => at(l).to_owned(),
        Place::Reserved(l) => format!("{} reserved", at(l)),
        Place::Committed(l) => format!("{} committed", at(l)),
        Place::Damaged(l) => format!("{} damaged", at(l)),
        Place::QualityControl(l) => format!("{} quality control", at(l)),
    }
}

fn clock(at: Time) -> String {
    let (day, ms) = (at.0.div_euclid(DAY_MS) + 1, at.0.rem_euclid(DAY_MS));
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, millis) = (ms / 1_000 % 60, ms % 1_000);
    let mut text = format!("{hours:02}:{minutes:02}");
    if seconds != 0 || millis != 0 {
        write!(text, ":{seconds:02}").unwrap();
    }
    if millis != 0 {
        write!(text, ".{millis:03}").unwrap();
    }
    if day != 1 {
        write!(text, " day {day}").unwrap();
    }
    text
}
