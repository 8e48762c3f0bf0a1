//! Several instances that share a log: who owns what, who takes over from whom, and that nobody else
//! writes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics says where"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::member::{PARTITIONS, Running, TOPIC, join};
use common::others::{Other, cluster_records, incarnation, say};
use common::{Brokers, alone, eventually, place, prefix, whole};
use onhand_kafka::{KafkaLog, KafkaSettings, OpenError};
use onhand_log::cluster::Ended;
use onhand_log::testing::{append, append_and_wait, batch_of, read_all, topic};
use onhand_log::{AppendError, Ending, Log, TopicPartition, View};

static BROKERS: LazyLock<Brokers> = LazyLock::new(|| Brokers::shared(3));
/// A member that is judged by nobody, however busy the machine is.
fn patient(prefix: &str, name: &str) -> KafkaSettings {
    let mut settings = BROKERS.settings(prefix, name);
    settings.session_timeout = Duration::from_secs(30);
    settings
}

/// Waits until these hold all partitions, none twice.
fn await_all(members: &[&Running]) {
    eventually("all is held", || {
        let held: usize = members.iter().map(|member| member.held().len()).sum();
        held == usize::from(PARTITIONS)
    });
}

fn await_even(members: &[&Running]) {
    let share = usize::from(PARTITIONS) / members.len();
    eventually("all is held evenly", || {
        let sizes: Vec<_> = members.iter().map(|member| member.held().len()).collect();
        sizes.iter().sum::<usize>() == usize::from(PARTITIONS)
            && sizes.iter().all(|size| (share..=share + 1).contains(size))
    });
}

/// In every partition generations never fall, and each has one writer.
fn check_order(log: &KafkaLog) -> BTreeMap<u16, Vec<String>> {
    let topic = topic(log, TOPIC, PARTITIONS);
    let mut all = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let at = TopicPartition { topic, partition };
        let values: Vec<_> = read_all(log, at, View::Durable)
            .into_iter()
            .map(|(_, value)| String::from_utf8(value).unwrap())
            .collect();
        let mut last = (0, String::new());
        for value in &values {
            let (run, generation) = value.rsplit_once('@').unwrap();
            let generation: u64 = generation.parse().unwrap();
            assert!(generation >= last.0, "{partition}: {value} after {last:?}");
            if generation == last.0 {
                assert_eq!(run, last.1, "{partition}: {value}");
            }
            last = (generation, run.to_owned());
        }
        all.insert(partition, values);
    }
    all
}

#[test]
fn three_members_share_evenly_and_only_what_must_move_moves() {
    let _whole = whole();
    let prefix = prefix();
    let a = Running::start(patient(&prefix, "a"));
    await_all(&[&a]);
    let b = Running::start(patient(&prefix, "b"));
    let c = Running::start(patient(&prefix, "c"));
    await_even(&[&a, &b, &c]);
    let membership = a.cluster.membership();
    let names: Vec<_> = membership.members.iter().map(|m| &*m.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    eventually("everybody sees who holds what", || {
        [&a, &b, &c].iter().enumerate().all(|(index, member)| {
            let membership = c.cluster.membership();
            let held = member.held();
            (0..PARTITIONS).all(|p| {
                let place = membership.places[usize::from(p)];
                held.contains_key(&p) == (place.holder == Some(index))
                    && held.contains_key(&p) == (place.assigned == Some(index))
            })
        })
    });

    // A restart under the same name moves nothing: the others keep their very tokens.
    let (of_a, of_b, of_c) = (a.held(), b.held(), c.held());
    let (log, cluster) = (
        std::sync::Arc::clone(&b.log),
        std::sync::Arc::clone(&b.cluster),
    );
    drop(b);
    let b = Running::start(patient(&prefix, "b"));
    eventually("it has them again", || b.held().len() == of_b.len());
    assert!(b.held().keys().eq(of_b.keys()));
    assert_eq!((a.held(), c.held()), (of_a.clone(), of_c.clone()));
    eventually("the first run knows", || {
        cluster.membership().ended == Some(Ended::Replaced)
    });
    let error = log.claim("task/0").expect_err("it has ended");
    assert!(error.to_string().contains("same instance name"), "{error}");
    drop((log, cluster));

    // Somebody leaves politely: what it had is spread, the rest stays.
    assert_eq!(b.leave(), Some(Ended::Left));
    await_even(&[&a, &c]);
    for (before, member) in [(&of_a, &a), (&of_c, &c)] {
        let now = member.held();
        for (partition, token) in before {
            assert_eq!(now.get(partition), Some(token), "it stayed");
        }
    }
    assert_eq!(a.cluster.membership().members.len(), 2);
    let run = &a.cluster.membership().members[0].incarnation;
    let ids = cluster_records(&BROKERS.bootstrap, &prefix)
        .into_iter()
        .filter(|(key, _)| *key == format!("n/{run}"));
    assert_eq!(ids.count(), 1, "nobody was fenced for it");
    check_order(&a.log);
}

/// A member in a process of its own.
struct Process {
    child: Child,
    said: Receiver<String>,
}

impl Process {
    fn start(prefix: &str, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["a_member_in_a_process_of_its_own", "--exact", "--nocapture"])
            .env(
                "ONHAND_MEMBER",
                format!("{} {prefix} {name}", BROKERS.bootstrap),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let output = child.stdout.take().unwrap();
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, said }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    fn await_line(&self, start: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        while let Ok(line) = self
            .said
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
        panic!("it did not say {start} within a minute");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Process`] runs.
#[test]
fn a_member_in_a_process_of_its_own() {
    let Ok(told) = std::env::var("ONHAND_MEMBER") else {
        return;
    };
    let [bootstrap, prefix, name] = told.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{told}");
    };
    // Ends with the process that started this one.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    let mut settings = KafkaSettings::new(bootstrap, name);
    settings.prefix = prefix.into();
    let member = Running::start(settings);
    println!(
        "run {}",
        member.cluster.membership().members[member.cluster.membership().me.unwrap()].incarnation
    );
    let (did, log) = (
        std::sync::Arc::clone(&member.did),
        std::sync::Arc::clone(&member.log),
    );
    std::thread::spawn(move || {
        let (mut last, mut since, mut told) = (0, 0, true);
        loop {
            let held = did.held.lock().unwrap().len();
            let durable = did.durable.load(Ordering::Relaxed);
            if held != last {
                println!("holds {held}");
                (last, since, told) = (held, durable, false);
            }
            if !told && durable > since + 20 {
                println!("wrote");
                told = true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let ended = member.ended();
    println!("ended {ended:?}");
    println!("claims {:?}", log.claim("other").err());
}

/// Two members of this process and one of its own, all with their share; the other's run.
fn two_and_a_process(prefix: &str) -> (Running, Running, Process, String) {
    let a = Running::start(BROKERS.settings(prefix, "a"));
    let b = Running::start(BROKERS.settings(prefix, "b"));
    let c = Process::start(prefix, "c");
    let run = c.await_line("run ");
    c.await_line("holds 5");
    c.await_line("wrote");
    eventually("the others have the rest", || {
        a.held().len() + b.held().len() == usize::from(PARTITIONS) - 5
    });
    (a, b, c, run)
}

#[test]
fn a_killed_members_partitions_are_taken_over() {
    let _whole = whole();
    for round in 0..3 {
        let prefix = prefix();
        let (a, b, c, run) = two_and_a_process(&prefix);
        let (of_a, of_b) = (a.held(), b.held());
        // In the middle of its transactions, not always at the same place.
        std::thread::sleep(Duration::from_millis(200 + 37 * round));
        let killed = Instant::now();
        c.signal("-KILL");
        eventually("it is noticed", || {
            a.cluster.membership().members.len() == 2
        });
        let noticed = killed.elapsed();
        await_all(&[&a, &b]);
        let claimed = killed.elapsed();
        println!("killed: noticed after {noticed:?}, all claimed after {claimed:?}");
        assert!(claimed < Duration::from_secs(30));
        for (before, member) in [(of_a, &a), (of_b, &b)] {
            let now = member.held();
            assert!(before.iter().all(|(p, token)| now.get(p) == Some(token)));
        }
        for member in [&a, &b] {
            let before = member.did.durable.load(Ordering::Relaxed);
            eventually("it writes on", || {
                member.did.durable.load(Ordering::Relaxed) > before + 40
            });
        }
        let written = check_order(&a.log);
        let of_c = |value: &&String| value.starts_with(&run);
        assert!(written.values().flatten().filter(of_c).count() > 20);
    }
}

#[test]
fn a_paused_member_that_wakes_writes_nothing_and_has_ended() {
    let _whole = whole();
    let prefix = prefix();
    let (a, b, c, run) = two_and_a_process(&prefix);
    let stopped = Instant::now();
    c.signal("-STOP");
    await_all(&[&a, &b]);
    println!("stopped: all claimed after {:?}", stopped.elapsed());
    let before = check_order(&a.log);
    let count = |all: &BTreeMap<u16, Vec<String>>| -> usize {
        let values = all.values().flatten();
        values.filter(|value| value.starts_with(&run)).count()
    };
    c.signal("-CONT");
    let woken = Instant::now();
    assert_eq!(c.await_line("ended "), "Some(Silent)");
    println!("woken: ended after {:?}", woken.elapsed());
    assert!(c.await_line("claims ").contains("heard nothing"));
    std::thread::sleep(Duration::from_secs(2));
    let after = check_order(&a.log);
    assert_eq!(count(&before), count(&after), "it wrote nothing");
    await_all(&[&a, &b]);
    assert_eq!(
        a.cluster.membership().members.len(),
        2,
        "nor is it a member"
    );
}

#[test]
fn of_two_claimers_at_once_the_later_has_the_name() {
    let _whole = whole();
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, TOPIC);
    assert_eq!(place(&b, TOPIC), at);
    for round in 0..5 {
        let name = format!("o/{round}");
        let (of_a, of_b) = std::thread::scope(|scope| {
            let claims = (
                scope.spawn(|| a.claim(&name)),
                scope.spawn(|| b.claim(&name)),
            );
            (claims.0.join().unwrap(), claims.1.join().unwrap())
        });
        let highest = [&of_a, &of_b]
            .iter()
            .filter_map(|t| t.as_ref().ok())
            .map(|t| t.generation)
            .max();
        let highest = highest.expect("never both fence each other");
        let mut durable = Vec::new();
        for (log, token) in [(&a, &of_a), (&b, &of_b)] {
            let Ok(token) = token else {
                assert!(
                    matches!(token, Err(AppendError::Fenced { .. })),
                    "{token:?}"
                );
                continue;
            };
            let ending = append(log, token, vec![(at, batch_of(1, b"x"))], vec![]);
            log.flush();
            let ended = match ending {
                Ok(ending) => ending.recv_timeout(Duration::from_secs(60)).unwrap(),
                Err(AppendError::Fenced { .. }) => Ending::Fenced,
                Err(error) => panic!("{error}"),
            };
            println!("{name}: generation {} ended {ended:?}", token.generation);
            match ended {
                Ending::Durable => durable.push(token.generation),
                other => assert_eq!(other, Ending::Fenced),
            }
        }
        assert_eq!(durable, [highest]);
    }
}

/// Three instances claim two names from each other as fast as they can, write under each token, and
/// give some up: whatever meets whatever, no two ever write in turn.
#[test]
fn names_claimed_at_random_have_one_writer_at_a_time() {
    let _whole = whole();
    let prefix = prefix();
    let logs = ["a", "b", "c"].map(|name| BROKERS.open(&prefix, name));
    for log in &logs {
        topic(log, TOPIC, PARTITIONS);
    }
    let topic = topic(&logs[0], TOPIC, PARTITIONS);
    let counts = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    let count = |what: String| *counts.lock().unwrap().entry(what).or_default() += 1;
    std::thread::scope(|scope| {
        for (index, log) in logs.iter().enumerate() {
            for seed in 0..2 {
                let count = &count;
                scope.spawn(move || {
                    for round in 0..12 {
                        let partition = u16::try_from((round * 5 / 3 + seed + index) % 2).unwrap();
                        let token = match log.claim(&format!("task/{partition}")) {
                            Ok(token) => token,
                            Err(AppendError::Fenced { .. }) => {
                                count("claim fenced".into());
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        };
                        let at = TopicPartition { topic, partition };
                        let value = format!("{index}@{}", token.generation);
                        for _ in 0..3 {
                            let one = vec![(at, batch_of(1, value.as_bytes()))];
                            let Ok(ending) = append(log, &token, one, vec![]) else {
                                count("append refused".into());
                                break;
                            };
                            log.flush();
                            let ended = ending.recv_timeout(Duration::from_secs(60)).unwrap();
                            count(format!("append {ended:?}"));
                        }
                        if round % 3 == 0 {
                            log.give_up(&token).unwrap();
                        }
                    }
                });
            }
        }
    });
    println!("at random: {:?}", counts.lock().unwrap());
    assert!(counts.lock().unwrap()["append Durable"] > 5);
    check_order(&logs[2]);
}

#[test]
fn all_ids_of_a_dead_run_are_fenced() {
    let _whole = whole();
    let prefix = prefix();
    let dead = BROKERS.open(&prefix, "dead");
    let at = TopicPartition {
        topic: topic(&dead, TOPIC, 1),
        partition: 0,
    };
    let token = dead.claim("o").unwrap();
    let one = vec![(at, batch_of(1, b"1"))];
    assert_eq!(append_and_wait(&dead, &token, one), Ending::Durable);
    let run = incarnation(&BROKERS.bootstrap, &prefix, "dead");
    std::mem::forget(dead);
    // As it stands in the middle of a transaction under each of its ids.
    let open: Vec<_> = (0..4)
        .map(|number| {
            let id = format!("{prefix}onhand.{run}-{number}");
            let open = Other::take(&BROKERS.bootstrap, &id);
            open.begin(&format!("{prefix}{TOPIC}"), 0, &[b"open"]);
            open
        })
        .collect();
    let heir = BROKERS.open(&prefix, "heir");
    assert_eq!(topic(&heir, TOPIC, 1), at.topic);
    let began = Instant::now();
    let token = heir.claim("o").unwrap();
    println!(
        "claimed from four open transactions in {:?}",
        began.elapsed()
    );
    let values = read_all(&heir, at, View::Durable);
    assert_eq!(values.len(), 1, "{values:?}");
    for open in open {
        let error = open.commit().expect_err("it was fenced").to_lowercase();
        assert!(error.contains("fenced"), "{error}");
    }
    let two = vec![(at, batch_of(1, b"2"))];
    assert_eq!(append_and_wait(&heir, &token, two), Ending::Durable);
    assert_eq!(read_all(&heir, at, View::Durable).len(), 2);
    // The claim of the dead one is gone: the next to claim has nobody but the heir to fence.
    let standing = cluster_records(&BROKERS.bootstrap, &prefix);
    let last: BTreeMap<_, _> = standing
        .into_iter()
        .filter(|(key, _)| key.starts_with("c/o/"))
        .collect();
    let standing: Vec<_> = last.iter().filter(|(_, value)| value.is_some()).collect();
    assert!(
        matches!(&standing[..], [(key, _)] if key.contains("heir.")),
        "{standing:?}"
    );
}

#[test]
fn records_of_others_in_the_clusters_topic_disturb_nobody() {
    let _whole = whole();
    let prefix = prefix();
    let member = Running::start(patient(&prefix, "a"));
    await_all(&[&member]);
    let cluster = format!("{prefix}onhand.cluster");
    // Also in a transaction that nobody ends.
    let open = Other::take(&BROKERS.bootstrap, &format!("{prefix}other"));
    open.begin(&cluster, 0, &[b"open"]);
    for (key, value) in [
        (&b""[..], &b""[..]),
        (b"assign", b"garbage"),
        (b"assign", b"z.1=1,2"),
        (b"assign", &[0xff, 0xfe]),
        (&[0xff], b"x"),
        (b"i/a", b"nonsense"),
        (b"l/a", b"b.1"),
        (b"n/x.1", b"1 2 y"),
        (b"c/task/0", b"claim"),
        (b"c/task/0/never.1/0", b"claim"),
    ] {
        say(&BROKERS.bootstrap, &cluster, key, value);
    }
    let before = member.held();
    let other = Running::start(patient(&prefix, "b"));
    await_even(&[&member, &other]);
    let after = member.held();
    assert!(after.iter().all(|(p, token)| before.get(p) == Some(token)));
    assert_eq!(member.cluster.membership().ended, None);
    open.abort();
    check_order(&member.log);
}

#[test]
fn a_name_that_was_given_up_is_claimed_without_fencing_anybody() {
    let _whole = whole();
    let prefix = prefix();
    let (a, b) = (BROKERS.open(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, TOPIC);
    assert_eq!(place(&b, TOPIC), at);
    let (mine, kept) = (a.claim("o").unwrap(), a.claim("kept").unwrap());
    let write = |log: &KafkaLog, token| append_and_wait(log, token, vec![(at, batch_of(1, b"x"))]);
    assert_eq!(write(&a, &mine), Ending::Durable);
    a.give_up(&mine).unwrap();
    let refused = append(&a, &mine, vec![(at, batch_of(1, b"x"))], vec![]).map(|_| ());
    assert!(matches!(refused, Err(AppendError::Fenced { .. })));
    let theirs = b.claim("o").unwrap();
    assert!(theirs.generation > mine.generation);
    assert_eq!(write(&b, &theirs), Ending::Durable);
    assert_eq!(write(&a, &kept), Ending::Durable);
    let ids = |instance| {
        let run = incarnation(&BROKERS.bootstrap, &prefix, instance);
        let records = cluster_records(&BROKERS.bootstrap, &prefix).into_iter();
        records
            .filter(|(key, _)| *key == format!("n/{run}"))
            .count()
    };
    assert_eq!(ids("a"), 1, "it took no new id");
    // One that was not given up is fenced, and goes on with its other names under new ids, which it takes one
    // after another.
    assert!(b.claim("kept").unwrap().generation > kept.generation);
    assert_eq!(write(&a, &kept), Ending::Fenced);
    assert!(ids("a") > 1);
    // A clean end gives up all.
    b.close().unwrap();
    let last: BTreeMap<_, _> = cluster_records(&BROKERS.bootstrap, &prefix)
        .into_iter()
        .collect();
    let mut standing = last
        .iter()
        .filter(|(key, value)| key.starts_with("c/") && value.is_some());
    assert_eq!(standing.next(), None);
}

#[test]
fn what_cannot_join_is_told_why() {
    let _whole = whole();
    let prefix = prefix();
    let log = BROKERS.open(&prefix, "a");
    let wrong = |change: fn(&mut onhand_kafka::Join)| {
        let mut asked = join();
        change(&mut asked);
        log.join(asked).expect_err("it is refused").to_string()
    };
    assert!(wrong(|join| join.address = "a b".into()).contains("address"));
    assert!(wrong(|join| join.partitions = 0).contains("partitions"));
    assert!(wrong(|join| join.spread = vec!["a/b".into()]).contains("slash"));
    let cluster = log.join(join()).unwrap();
    eventually("all is its own", || {
        (0..PARTITIONS).all(|p| cluster.membership().is_mine(p))
    });
    let error = log.join(join()).expect_err("once is enough");
    assert!(
        matches!(&error, OpenError::Settings(why) if why.contains("already")),
        "{error}"
    );
    let error = BROKERS.open(&prefix, "b").join(onhand_kafka::Join {
        partitions: 8,
        ..join()
    });
    let error = error.expect_err("they share 16").to_string();
    assert!(error.contains("16") && error.contains('8'), "{error}");
    let error = log.claim("task/16");
    assert!(
        error.is_ok(),
        "no partition of that number is spread: {error:?}"
    );
    cluster.leave().unwrap();
    let error = log
        .claim("task/0")
        .expect_err("nothing is assigned to it any more");
    assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
}

#[test]
fn while_no_broker_answers_nothing_moves() {
    if !BROKERS.are_ours() {
        return;
    }
    let _alone = alone();
    let prefix = prefix();
    let a = Running::start(BROKERS.settings(&prefix, "a"));
    let b = Running::start(BROKERS.settings(&prefix, "b"));
    await_even(&[&a, &b]);
    let before = cluster_records(&BROKERS.bootstrap, &prefix)
        .into_iter()
        .filter(|(key, _)| key == "assign")
        .count();
    for node in 1..=3 {
        BROKERS.signal(node, "-STOP");
    }
    // Far longer than a silent member is waited for.
    std::thread::sleep(Duration::from_secs(5));
    for member in [&a, &b] {
        let unheard = member.cluster.unheard();
        assert!(
            unheard.is_some_and(|age| age > Duration::from_secs(3)),
            "{unheard:?}"
        );
    }
    for node in 1..=3 {
        BROKERS.signal(node, "-CONT");
    }
    BROKERS.await_in_step();
    for member in [&a, &b] {
        let before = member.did.durable.load(Ordering::Relaxed);
        eventually("it writes on", || {
            member.did.durable.load(Ordering::Relaxed) > before + 20
        });
    }
    await_even(&[&a, &b]);
    for member in [&a, &b] {
        assert_eq!(member.cluster.membership().ended, None);
        assert_eq!(member.cluster.membership().members.len(), 2);
        eventually("it is heard again", || member.cluster.unheard().is_none());
    }
    let after = cluster_records(&BROKERS.bootstrap, &prefix)
        .into_iter()
        .filter(|(key, _)| key == "assign")
        .count();
    assert_eq!(before, after);
    check_order(&a.log);
}
