//! A few partitions in memory: commands go to the owner of their key, what owners send each other is
//! delivered, every decision is checked against what must always hold.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it, and a test stops where it breaks"
)]

use std::collections::{BTreeMap, VecDeque};

use onhand_ledger::decision::SendWhat;
use onhand_ledger::{
    Amount, Body, Command, Decision, Fact, Figure, Home, Id, Input, Level, Location, Movement,
    Place, Settings, Sku, Source, Stamped, State, StateKey, StateName, StateRecord, StockPlace,
    Time, decide,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Spreads keys over partitions; any function will do.
pub(crate) fn partition_of(key: &[u8], partitions: u16) -> u16 {
    u16::try_from(xxh3_64(key) % u64::from(partitions)).unwrap()
}

pub(crate) fn home(partition: u16, partitions: u16) -> Home {
    Home {
        partition,
        partitions,
        partition_of,
    }
}

/// Where every record of these tests is said to stand.
pub(crate) const OFFSET: i64 = 77;

/// An input as intake would stamp it.
pub(crate) fn stamped(input: Input<'_>, at: Time) -> Stamped<'_> {
    let (name, content) = match &input {
        Input::Command(command) => {
            let name = format!("{}\0{}", command.source, command.id);
            let (source, id) = (Source::from(""), Id::from(""));
            let content = format!(
                "{:?}",
                Command {
                    source,
                    id,
                    ..command.clone()
                }
            );
            (xxh3_128(name.as_bytes()), xxh3_64(content.as_bytes()))
        }
        _ => (0, 0),
    };
    Stamped {
        input,
        at,
        name,
        content,
        offset: OFFSET,
    }
}

/// A command with nothing but its name and body.
pub(crate) fn command<'a>(
    source: &'a str,
    id: &'a str,
    at: Option<i64>,
    body: Body<'a>,
) -> Command<'a> {
    Command {
        occurred_at: at.map(Time),
        ..Command::new(source, id, body)
    }
}

pub(crate) fn fact<'a>(
    sku: &'a str,
    location: &'a str,
    quantity: i64,
    state: StateName,
) -> Fact<'a> {
    let quantity = Amount::whole(quantity);
    Fact {
        sku: sku.into(),
        location: location.into(),
        quantity,
        state,
    }
}

pub(crate) fn count<'a>(
    sku: &'a str,
    location: &'a str,
    quantity: i64,
    figure: Figure,
) -> Body<'a> {
    let quantity = Amount::whole(quantity);
    Body::Count {
        sku: sku.into(),
        location: location.into(),
        quantity,
        figure,
    }
}

pub(crate) fn move_<'a>(
    sku: &'a str,
    quantity: i64,
    from: (&'a str, StateName),
    to: (&'a str, StateName),
) -> Body<'a> {
    let place = |(location, state): (&'a str, StateName)| StockPlace {
        location: Location::from(location),
        state,
    };
    let quantity = Amount::whole(quantity);
    Body::Move {
        sku: Sku::from(sku),
        quantity,
        from: place(from),
        to: place(to),
    }
}

/// The five figures of a level in the order of their declaration.
pub(crate) fn figures(level: &Level) -> [i64; 5] {
    [
        level.on_hand,
        level.reserved,
        level.committed,
        level.damaged,
        level.quality_control,
    ]
}

/// Where stock is by movements alone, the outside included.
#[derive(Default)]
pub(crate) struct Books {
    /// (SKU, location, state) to quantity; the outside is a location of the SKU.
    places: BTreeMap<(String, String, &'static str), i128>,
    /// (SKU, location) to sequence.
    sequences: BTreeMap<(String, String), u64>,
}

impl Books {
    /// Enters a decision and checks it: conservation, levels as movements say, sequences by one.
    pub(crate) fn enter(&mut self, decision: &Decision<'_>) {
        let Some(sku) = decision.input.sku() else {
            assert!(decision.movements.is_empty() && decision.levels.is_empty());
            return;
        };
        let sku = sku.as_str();
        let key = |place: Place| {
            let (location, state) = match place {
                Place::Supplier => (None, "supplier"),
                Place::Customer => (None, "customer"),
                Place::Loss => (None, "loss"),
                Place::Available(l) => (Some(l), "available"),
                Place::Reserved(l) => (Some(l), "reserved"),
                Place::Committed(l) => (Some(l), "committed"),
                Place::Damaged(l) => (Some(l), "damaged"),
                Place::QualityControl(l) => (Some(l), "quality_control"),
            };
            let location = location.map_or("", |l| decision.locations[usize::from(l)].as_str());
            (sku.to_owned(), location.to_owned(), state)
        };
        let mut moved_at = BTreeMap::new();
        for Movement {
            from, to, quantity, ..
        } in &decision.movements
        {
            assert!(quantity.0 > 0, "movements have a direction, not a sign");
            *self.places.entry(key(*from)).or_default() -= i128::from(quantity.0);
            *self.places.entry(key(*to)).or_default() += i128::from(quantity.0);
            for (place, signed) in [(*from, -quantity.0), (*to, quantity.0)] {
                if place.location().is_some() {
                    let (_, location, state) = key(place);
                    *moved_at
                        .entry(location.clone())
                        .or_insert(BTreeMap::new())
                        .entry(state)
                        .or_insert(0) += signed;
                }
            }
        }
        assert_eq!(self.places.values().sum::<i128>(), 0, "stock is conserved");
        let mut changed: Vec<&str> = Vec::new();
        for level in &decision.levels {
            let location = decision.locations[usize::from(level.location)].as_str();
            changed.push(location);
            let at = |state| {
                let key = (sku.to_owned(), location.to_owned(), state);
                self.places.get(&key).copied().unwrap_or(0)
            };
            let (reserved, committed) = (at("reserved"), at("committed"));
            let (damaged, quality_control) = (at("damaged"), at("quality_control"));
            let on_hand = at("available") + reserved + committed + damaged + quality_control;
            let said = [
                level.on_hand,
                level.reserved,
                level.committed,
                level.damaged,
                level.quality_control,
            ];
            let moved = [on_hand, reserved, committed, damaged, quality_control];
            assert_eq!(said.map(i128::from), moved, "a level is what moved into it");
            let sequence = self
                .sequences
                .entry((sku.to_owned(), location.to_owned()))
                .or_default();
            *sequence += 1;
            assert_eq!(level.sequence, *sequence, "sequences rise by one");
        }
        for (location, states) in &moved_at {
            let moves = states.values().any(|moved| *moved != 0);
            assert_eq!(
                moves,
                changed.contains(&location.as_str()),
                "a level for each change"
            );
        }
    }
}

/// Partitions that deliver to each other.
pub(crate) struct World {
    pub(crate) states: Vec<State>,
    pub(crate) books: Vec<Books>,
    /// Every decision of each partition, as its log holds it.
    pub(crate) logs: Vec<Vec<Vec<u8>>>,
    /// Records sent and not yet delivered, in order.
    pub(crate) inbox: VecDeque<(u16, Vec<u8>)>,
    pub(crate) now: Time,
    pub(crate) settings: Settings,
}

impl World {
    pub(crate) fn new(partitions: u16, settings: Settings) -> Self {
        let states = (0..partitions).map(|p| State::new(home(p, partitions), settings.clone()));
        Self {
            states: states.collect(),
            books: (0..partitions).map(|_| Books::default()).collect(),
            logs: vec![Vec::new(); usize::from(partitions)],
            inbox: VecDeque::new(),
            now: Time(0),
            settings,
        }
    }

    pub(crate) fn partitions(&self) -> u16 {
        u16::try_from(self.states.len()).unwrap()
    }

    /// The partition that owns a key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        usize::from(partition_of(key.as_bytes(), self.partitions()))
    }

    /// The key of a command.
    pub(crate) fn key<'c>(command: &'c Command<'_>) -> &'c str {
        match &command.body {
            Body::Commit { reservation, .. }
            | Body::Reserve { reservation, .. }
            | Body::Confirm { reservation, .. }
            | Body::Release { reservation, .. }
            | Body::Extend { reservation, .. } => reservation.as_str(),
            body => body.sku().unwrap().as_str(),
        }
    }

    /// Decides and applies one input at a partition; what it sends waits in the inbox.
    pub(crate) fn decide<'a>(&mut self, partition: usize, input: Input<'a>) -> Decision<'a> {
        let stamped = stamped(input, self.now);
        let before = self.states[partition].number();
        let decision = decide(&self.states[partition], &stamped);
        assert_eq!(
            decide(&self.states[partition], &stamped),
            decision,
            "deciding is repeatable"
        );
        assert_eq!(decision.number, before + 1);
        assert!(!decision.gap && !decision.alert);
        self.enter(partition, &decision);
        decision
    }

    /// Applies a decision of a partition; what it sends waits in the inbox.
    pub(crate) fn enter(&mut self, partition: usize, decision: &Decision<'_>) {
        let bytes = postcard::to_stdvec(decision).unwrap();
        assert_eq!(
            postcard::from_bytes::<Decision<'_>>(&bytes).unwrap(),
            *decision
        );
        self.books[partition].enter(decision);
        self.states[partition].apply(decision);
        self.logs[partition].push(bytes);
        for send in &decision.sends {
            let input = match &send.what {
                SendWhat::Ask(ask) => Input::Ask(ask.clone()),
                SendWhat::Answer(answer) => Input::Answer(answer.clone()),
            };
            self.inbox
                .push_back((send.to, postcard::to_stdvec(&input).unwrap()));
        }
    }

    /// Gives a command to its owner.
    pub(crate) fn give<'a>(&mut self, command: Command<'a>) -> Decision<'a> {
        let owner = self.owner(Self::key(&command));
        self.decide(owner, Input::Command(command))
    }

    /// Delivers what was sent until nothing is under way; every decision is shown to `each`.
    pub(crate) fn settle(&mut self, each: &mut dyn FnMut(&Decision<'_>)) {
        while let Some((to, bytes)) = self.inbox.pop_front() {
            let input: Input<'_> = postcard::from_bytes(&bytes).unwrap();
            each(&self.decide(usize::from(to), input));
        }
    }

    /// Every partition hears that time has passed, and what follows from it is delivered.
    pub(crate) fn tick(&mut self, each: &mut dyn FnMut(&Decision<'_>)) {
        for partition in 0..self.states.len() {
            if self.states[partition]
                .due()
                .is_some_and(|due| due <= self.now)
            {
                each(&self.decide(partition, Input::Tick));
            }
        }
        self.settle(each);
    }

    pub(crate) fn level(&self, sku: &str, location: &str) -> Option<Level> {
        self.states[self.owner(sku)].level(sku, location)
    }

    /// The figures of all levels, over all partitions.
    pub(crate) fn levels(&mut self) -> BTreeMap<(String, String), [i64; 5]> {
        let mut levels = BTreeMap::new();
        for state in &mut self.states {
            for sku in state.skus(None, "", usize::MAX) {
                for level in state.levels(sku.as_str()).unwrap() {
                    let key = (sku.to_string(), level.location.to_string());
                    levels.insert(key, figures(&level));
                }
            }
        }
        levels
    }

    /// Replays every log by `apply` alone, and restores every state from its parts; both must equal
    /// the live state.
    pub(crate) fn check_restores(&self) {
        for (partition, state) in self.states.iter().enumerate() {
            let mut replayed = State::new(home_of(partition, self), self.settings.clone());
            for bytes in &self.logs[partition] {
                replayed.apply(&postcard::from_bytes(bytes).unwrap());
            }
            assert_eq!(replayed.hash(), state.hash(), "replay gives the same state");
            let restored = restored(state, home_of(partition, self), &self.settings);
            assert_eq!(
                restored.hash(),
                state.hash(),
                "a restore gives the same state"
            );
        }
    }
}

fn home_of(partition: usize, world: &World) -> Home {
    home(u16::try_from(partition).unwrap(), world.partitions())
}

/// A state put together from the exported parts of another, last part first.
pub(crate) fn restored(state: &State, home: Home, settings: &Settings) -> State {
    let mut parts: Vec<(StateKey, Vec<u8>)> = Vec::new();
    state.export(&mut |key, record| {
        parts.push((key.clone(), postcard::to_stdvec(record).unwrap()));
    });
    let mut restored = State::new(home, settings.clone());
    for (key, bytes) in parts.iter().rev() {
        let record: StateRecord<'_> = postcard::from_bytes(bytes).unwrap();
        restored.load(key, Some(record)).unwrap();
    }
    restored
}
