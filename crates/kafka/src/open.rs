//! Opening a log: the internal topic, the check of all topics, taking the instance's id.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Deref as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use onhand_log::clock::Clock;
use onhand_log::{
    AppendError, Glimpse, Opening, Progress, Standing, StandingError, TopicError, TopicId,
    TopicSpec,
};
use tracing::{debug, warn};

use crate::KafkaLog;
use crate::catalog::{Catalog, Entry};
use crate::cluster::Board;
use crate::cluster::note::Note;
use crate::cold::Pool;
use crate::error::OpenError;
use crate::follower::{Around, Follower};
use crate::ids::{self, Ids};
use crate::inner::{Inner, Listeners};
use crate::labels::{self, Labels};
use crate::positions::{self, Positions};
use crate::queue::Queue;
use crate::registry::Registry;
use crate::settings::KafkaSettings;
use crate::topics::{Existing, Keep, Topics, Wanted};
use crate::watch;
use crate::writer::Writer;

pub(crate) fn open(settings: KafkaSettings) -> Result<KafkaLog, OpenError> {
    settings.check()?;
    let admin = Topics::open(&settings)?;
    let internals = [catalog(), cluster(), positions::spec()];
    refuse_gone(&admin, &settings, &internals).map_err(OpenError::Cluster)?;
    for internal in &internals {
        open_internal(&admin, &settings, internal)?;
    }
    let mut registry = Registry::open(&settings).map_err(OpenError::Cluster)?;
    registry.refresh().map_err(OpenError::Cluster)?;
    // Before anything is taken from a process that runs.
    begin(registry.catalog(), &settings).map_err(|why| standing_error(&settings, why))?;
    // What is only read, or filled, need not have what a served log needs.
    let filling = settings.opening != Opening::Serve;
    check_topics(&admin, &settings, &registry, filling)?;
    let mut refused = None;
    let written = registry.write::<String>(|catalog| {
        begin(catalog, &settings).map_err(|why| {
            let text = why.to_string();
            refused = Some(why);
            text
        })
    });
    if let Some(why) = refused {
        return Err(standing_error(&settings, why));
    }
    written.map_err(OpenError::Cluster)?;
    let me = ids::incarnation(&settings.instance);
    let board = Board::open(&settings, &me).map_err(OpenError::Cluster)?;
    unseal(&mut registry, &board, &settings)?;
    let (ids, producers) = Ids::open(&board, settings.transactional_ids)
        .map_err(|error| OpenError::Cluster(error.to_string()))?;
    let catalog = registry.catalog();
    let (epoch, clock, topics) = (catalog.epoch, catalog.clock, catalog.topics());
    let (log_id, standing) = (catalog.id, catalog.standing.clone());

    let labels = Labels::new(&settings, log_id, &catalog.labelled);
    let labels = Arc::new(labels);
    let born = Instant::now();
    let listeners = Arc::new(Listeners::default());
    let total = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&listeners);
    let follower = Follower::start(Around {
        settings: settings.clone(),
        labels: Arc::clone(&labels),
        tell: Box::new(move || {
            told.tell(Progress::Appended);
            told.tell(Progress::Durable);
        }),
        born,
        total: Arc::clone(&total),
    })
    .map_err(OpenError::Cluster)?;
    let inner = Arc::new(Inner {
        pool: Pool::open(&settings, &labels).map_err(OpenError::Cluster)?,
        positions: Positions::open(&settings, &labels).map_err(OpenError::Cluster)?,
        board,
        ids,
        labels,
        log_id,
        standing: Mutex::new(standing),
        epoch,
        clock: Clock::new(clock),
        born,
        queue: Queue::default(),
        admin,
        follower,
        listeners,
        claims: AtomicU64::new(0),
        commits: AtomicU64::new(0),
        total,
        registry: Mutex::new(registry),
        topics: RwLock::new(BTreeMap::new()),
        partitions: RwLock::new(HashMap::new()),
        suspects: AtomicBool::new(false),
        settings,
    });
    inner.learn_topics(topics);
    watch::start(&inner)?;
    let writer = Writer::new(Arc::clone(&inner), producers);
    let thread = std::thread::Builder::new()
        .name("kafka-writer".into())
        .spawn(move || writer.run())
        .map_err(|error| OpenError::Cluster(format!("a thread could not be started: {error}")))?;
    debug!(
        incarnation = inner.ids.incarnation(),
        epoch, "opened the log on Kafka"
    );
    Ok(KafkaLog {
        inner,
        writer: Mutex::new(Some(thread)),
    })
}

/// Takes back that `onhand.cluster` calls the log sealed where it is not sealed any more. The seal is
/// written to `onhand.log` first: so when that, read behind the other, says that the log may be served,
/// it was unsealed since.
fn unseal(
    registry: &mut Registry,
    board: &Board,
    settings: &KafkaSettings,
) -> Result<(), OpenError> {
    if !board.view().is_sealed() {
        return Ok(());
    }
    registry.refresh().map_err(OpenError::Cluster)?;
    let catalog = registry.catalog();
    if matches!(catalog.standing, Standing::Sealed(_)) {
        let unused = catalog.is_unused();
        let may = catalog.standing.open(&settings.opening, unused);
        return may.map(|_| ()).map_err(|why| standing_error(settings, why));
    }
    let said = board.say(&[Note::Sealed(false)]);
    said.map(|_| ()).map_err(OpenError::Cluster)
}

fn standing_error(settings: &KafkaSettings, why: StandingError) -> OpenError {
    OpenError::Standing {
        bootstrap: settings.bootstrap.clone(),
        why,
    }
}

/// What is written so that the log is there, as it is to be for what it is opened for.
fn begin(catalog: &Catalog, settings: &KafkaSettings) -> Result<Vec<Entry>, StandingError> {
    let opening = &settings.opening;
    let standing = catalog.standing.open(opening, catalog.is_unused())?;
    let mut entries = Vec::new();
    let epoch = match opening {
        Opening::Fill(fill) => fill.epoch,
        Opening::Unseal => random(),
        _ if catalog.epoch == 0 => random(),
        _ => catalog.epoch,
    };
    if epoch != catalog.epoch {
        entries.push(Entry::Log(epoch));
    }
    if catalog.id == 0 {
        entries.push(Entry::Id(random()));
    }
    // Records of a log that was begun without bear none.
    if catalog.labelled.is_empty() && catalog.is_unused() {
        entries.push(Entry::Labelled(labels::topics(settings)));
    }
    if standing != catalog.standing {
        entries.push(Entry::Standing(standing));
    }
    if let Opening::Fill(fill) = opening
        && fill.not_before > catalog.clock
    {
        entries.push(Entry::Clock(fill.not_before));
    }
    Ok(entries)
}

/// What a log is, read without taking anything from whoever has it open and without writing.
///
/// # Errors
/// As [`KafkaLog::open`]; no log is not an error.
pub(crate) fn look(settings: &KafkaSettings) -> Result<Option<Glimpse>, OpenError> {
    settings.check()?;
    let admin = Topics::open(settings)?;
    let name = settings.catalog();
    let found = admin
        .describe(std::slice::from_ref(&name))
        .map_err(OpenError::Cluster)?;
    if !found.contains_key(&name) {
        return Ok(None);
    }
    let mut registry = Registry::open(settings).map_err(OpenError::Cluster)?;
    registry.refresh().map_err(OpenError::Cluster)?;
    let catalog = registry.catalog();
    Ok((catalog.epoch != 0).then(|| Glimpse {
        id: catalog.id,
        standing: catalog.standing.clone(),
        is_unused: catalog.is_unused(),
    }))
}

/// See [`KafkaLog::living`].
pub(crate) fn living(settings: &KafkaSettings) -> Result<Vec<String>, OpenError> {
    settings.check()?;
    let admin = Topics::open(settings)?;
    let topic = settings.cluster();
    let found = admin.describe(std::slice::from_ref(&topic));
    if found.map_err(OpenError::Cluster)?.is_empty() {
        return Ok(Vec::new());
    }
    let me = ids::incarnation(&settings.instance);
    let board = Board::open(settings, &me).map_err(OpenError::Cluster)?;
    let from = board.view().next();
    std::thread::sleep(settings.session_timeout * 2);
    let heard = board.view().heard_since(from);
    board.stop();
    Ok(heard)
}

/// See [`Log::set_standing`](onhand_log::Log::set_standing). When a copy becomes complete its topics get
/// the settings of a log that is served.
pub(crate) fn set_standing(inner: &Inner, standing: &Standing) -> Result<(), AppendError> {
    let serves = matches!(standing, Standing::Own | Standing::Copy(_));
    let filled = matches!(inner.standing().deref(), Standing::Filling(_));
    let unreachable = |error: String| AppendError::Unreachable(error);
    let mut registry = inner.registry();
    let write = |registry: &mut Registry| {
        let entry = Entry::Standing(standing.clone());
        registry
            .write::<String>(|_| Ok(vec![entry.clone()]))
            .map_err(unreachable)
    };
    if !serves {
        write(&mut registry)?;
        *inner.standing() = standing.clone();
        if matches!(standing, Standing::Sealed(_)) {
            // Whoever is a member ends when it reads this. In this order, see `unseal`.
            let said = inner.board.say(&[Note::Sealed(true)]);
            said.map_err(AppendError::Unreachable)?;
        }
        return Ok(());
    }
    let topics = registry.catalog().topics();
    if filled {
        // Times first, while nobody may serve it. Compaction last: once the standing is written nothing
        // is compared any more. In between it is opened only with a warning that says what to do.
        for topic in topics.iter().filter(|topic| !topic.spec.compacted) {
            let wanted = wanted(&inner.settings, &topic.spec, false);
            inner.admin.alter(&wanted).map_err(unreachable)?;
        }
    }
    write(&mut registry)?;
    *inner.standing() = standing.clone();
    for topic in topics.iter().filter(|topic| topic.spec.compacted) {
        let wanted = wanted(&inner.settings, &topic.spec, false);
        inner.admin.alter(&wanted).map_err(unreachable)?;
    }
    // A broker may answer with the old settings for a moment.
    let until = Instant::now() + inner.settings.request_timeout;
    loop {
        let checked = check_topics(&inner.admin, &inner.settings, &registry, false);
        match checked {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(unreachable(error.to_string())),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// How long a topic of the log's own that is not there is looked for.
const GONE: Duration = Duration::from_secs(3);

/// Whoever begins a log creates all its own topics before it writes to one of them. So where one has ever had
/// a record, one that is not there was deleted, and an empty one in its place would pass for what it
/// held: who owns what, how far everybody is, what is this log's.
fn refuse_gone(
    admin: &Topics,
    settings: &KafkaSettings,
    internals: &[TopicSpec],
) -> Result<(), String> {
    let until = Instant::now() + GONE;
    let name = |spec: &TopicSpec| settings.topic(&spec.name);
    loop {
        let there = admin.names()?;
        let named = internals.iter().map(name);
        let known: Vec<_> = named.filter(|name| there.contains(name)).collect();
        if known.len() == internals.len() || !admin.has_any_record(&known)? {
            return Ok(());
        }
        // Asked again: somebody may have begun the log in between, and not every broker knows at once.
        let there = admin.names()?;
        let gone = internals.iter().filter(|spec| !there.contains(&name(spec)));
        let findings = gone.flat_map(|spec| admin.findings(&wanted(settings, spec, false), None));
        let findings: Vec<_> = findings.collect();
        if findings.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(findings.join("\n"));
        }
        std::thread::sleep(GONE / 10);
    }
}

/// Any number but 0, which says that a log was not begun.
fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// What the log says of itself.
fn catalog() -> TopicSpec {
    internal("onhand.log")
}

/// What the instances say to each other.
fn cluster() -> TopicSpec {
    internal("onhand.cluster")
}

/// One partition, for its order.
fn internal(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: 1,
        compacted: true,
    }
}

fn open_internal(
    admin: &Topics,
    settings: &KafkaSettings,
    spec: &TopicSpec,
) -> Result<(), OpenError> {
    let name = settings.topic(&spec.name);
    let found = admin
        .describe(std::slice::from_ref(&name))
        .map_err(OpenError::Cluster)?;
    let wanted = Wanted {
        spec,
        append_time: false,
        keep: Keep::Forever,
        filling: false,
        brief: *spec == cluster(),
    };
    let Some(existing) = found.get(&name) else {
        return admin.create(&wanted).map_err(OpenError::Cluster);
    };
    judge(settings, admin.findings(&wanted, Some(existing)))
}

fn check_topics(
    admin: &Topics,
    settings: &KafkaSettings,
    registry: &Registry,
    filling: bool,
) -> Result<(), OpenError> {
    let topics = registry.catalog().topics();
    let names: Vec<_> = topics
        .iter()
        .map(|topic| settings.topic(&topic.spec.name))
        .collect();
    let found = admin.describe(&names).map_err(OpenError::Cluster)?;
    let mut findings = Vec::new();
    for (topic, name) in topics.iter().zip(&names) {
        let wanted = wanted(settings, &topic.spec, filling);
        findings.extend(admin.findings(&wanted, found.get(name)));
    }
    judge(settings, findings)
}

/// What is wrong where topics of a log that runs are not there any more. Nothing else is looked at.
pub(crate) fn gone(inner: &Inner) -> Result<Vec<String>, String> {
    let settings = &inner.settings;
    let mut specs = vec![catalog(), cluster(), positions::spec()];
    {
        let known = inner.topics.read().expect("no holder of the topics panics");
        specs.extend(known.values().map(|(topic, _)| topic.spec.clone()));
    }
    let there = inner.admin.names()?;
    let gone = specs
        .iter()
        .filter(|spec| !there.contains(&settings.topic(&spec.name)));
    Ok(gone
        .flat_map(|spec| inner.admin.findings(&wanted(settings, spec, false), None))
        .collect())
}

fn judge(settings: &KafkaSettings, findings: Vec<String>) -> Result<(), OpenError> {
    if findings.is_empty() {
        return Ok(());
    }
    if !settings.allow_unsafe_topics {
        return Err(OpenError::UnsafeTopics(findings));
    }
    for finding in findings {
        warn!(finding, "allowed, though it could lose data");
    }
    Ok(())
}

fn wanted<'a>(settings: &KafkaSettings, spec: &'a TopicSpec, filling: bool) -> Wanted<'a> {
    Wanted {
        spec,
        append_time: settings.append_time_topics.contains(&spec.name),
        keep: match settings.retention.get(&spec.name) {
            None => Keep::Forever,
            Some(_) if settings.opening != Opening::Serve => Keep::AsIs,
            Some(time) => Keep::Stated(*time),
        },
        filling,
        brief: false,
    }
}

/// Carries a topic's error through the registry, which adds its own.
struct Refused(TopicError);

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self(TopicError::Log(AppendError::Unreachable(why)))
    }
}

pub(crate) fn create_topic(inner: &Inner, spec: &TopicSpec) -> Result<TopicId, TopicError> {
    let mut registry = inner.registry();
    if let Some(id) = registry.catalog().find(spec)? {
        return Ok(id);
    }
    if [catalog().name, cluster().name, positions::spec().name].contains(&spec.name) {
        return Err(TopicError::Name(spec.name.clone()));
    }
    let name = inner.settings.topic(&spec.name);
    if name.len() > 249 {
        return Err(TopicError::Name(name));
    }
    let filling = matches!(inner.standing().deref(), Standing::Filling(_));
    let wanted = wanted(&inner.settings, spec, filling);
    let mut id = TopicId(0);
    let written = registry.write::<Refused>(|catalog| {
        if let Some(found) = catalog.find(spec).map_err(Refused)? {
            id = found;
            return Ok(Vec::new());
        }
        // On the cluster first: a number without a topic would be worse than a topic without one.
        let found = inner.admin.describe(std::slice::from_ref(&name))?;
        match found.get(&name) {
            None => inner.admin.create(&wanted)?,
            Some(existing) => adopt(inner, &wanted, existing).map_err(Refused)?,
        }
        id = catalog.next_id();
        Ok(vec![Entry::Topic(id, spec.clone())])
    });
    let topics = registry.catalog().topics();
    drop(registry);
    inner.learn_topics(topics);
    written.map_err(|refused| refused.0)?;
    Ok(id)
}

/// A topic that others made is taken when it is as asked for and loses nothing.
fn adopt(inner: &Inner, wanted: &Wanted<'_>, existing: &Existing) -> Result<(), TopicError> {
    let spec = wanted.spec;
    let policy = existing
        .configs
        .get("cleanup.policy")
        .map_or("delete", String::as_str);
    let compacted = policy == "compact";
    let same = compacted == spec.compacted || wanted.filling;
    if existing.partitions != usize::from(spec.partitions) || !same {
        let has = u16::try_from(existing.partitions).unwrap_or(u16::MAX);
        let exists = TopicSpec {
            partitions: has,
            compacted,
            ..spec.clone()
        };
        return Err(exists.differs_from(spec));
    }
    let findings = inner.admin.findings(wanted, Some(existing));
    judge(&inner.settings, findings).map_err(|error| TopicError::Unsafe(error.to_string()))
}
