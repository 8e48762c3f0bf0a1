//! Naming a log on Apache Kafka: what every command takes that reads or writes one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use onhand_log::Log;
use onhand_server::{KafkaConfig, RunError};

use crate::copy::shell;
use crate::stop;

#[derive(Debug, Args)]
#[command(next_help_heading = "On Kafka")]
pub(crate) struct KafkaArgs {
    /// The log is on Apache Kafka: brokers as host:port, comma-separated; any of a cluster is enough
    #[arg(long, env = "ONHAND_KAFKA", value_name = "BROKERS")]
    kafka: Option<String>,
    /// This process's own name on the cluster [default: from the machine's name]. Processes of different
    /// names share the log. One that starts under the name of another takes its place and what it owns,
    /// and the other stops with exit code 1: so a restart is quick, and two must not have one name
    #[arg(long, env = "ONHAND_INSTANCE", value_name = "NAME", value_parser = instance,
          requires = "kafka")]
    instance: Option<String>,
    /// What stands before the names of topics, groups and transactional ids
    #[arg(long, env = "ONHAND_KAFKA_PREFIX", value_name = "TEXT", value_parser = prefix,
          requires = "kafka")]
    kafka_prefix: Option<String>,
    /// Copies of each partition of new topics
    #[arg(long, env = "ONHAND_KAFKA_REPLICATION", default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=16), requires = "kafka")]
    kafka_replication: u16,
    /// Copies that hold a record before it is acknowledged; at most --kafka-replication [default: 2, or 1
    /// of one copy]
    #[arg(long, env = "ONHAND_KAFKA_INSYNC_MIN", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=16), requires = "kafka")]
    kafka_insync_min: Option<u16>,
    /// Go on although topics could lose data: for a trial on one broker
    #[arg(long, env = "ONHAND_KAFKA_ALLOW_UNSAFE", requires = "kafka")]
    kafka_allow_unsafe: bool,
    /// A file of settings of the Kafka client, KEY=VALUE on each line, as librdkafka names them; # begins a
    /// comment. The place for passwords: other users of this machine see what is typed. This build speaks
    /// plaintext, and SASL PLAIN without TLS (security.protocol=SASL_PLAINTEXT, sasl.mechanism=PLAIN,
    /// sasl.username, sasl.password): keep the way to the brokers private
    #[arg(long, env = "ONHAND_KAFKA_CONFIG", value_name = "FILE", value_parser = settings_file,
          requires = "kafka")]
    kafka_config: Option<SettingsFile>,
    /// One such setting; may be given more than once, and goes before the file's
    #[arg(long, env = "ONHAND_KAFKA_SET", hide_env_values = true, value_name = "KEY=VALUE",
          value_parser = KeyValue, requires = "kafka")]
    kafka_set: Vec<(String, String)>,
}

/// A file of settings and what was read in it.
#[derive(Clone, Debug)]
struct SettingsFile {
    path: String,
    settings: Vec<(String, String)>,
}

impl KafkaArgs {
    /// The cluster, if one was named; `instance` where the process was given no name.
    pub(crate) fn config(&self, instance: &str) -> Option<KafkaConfig> {
        let brokers = self.kafka.as_deref()?;
        let instance = self.instance.as_deref().unwrap_or(instance);
        let in_file = self.kafka_config.iter().flat_map(|file| &file.settings);
        // Of two with one key the client takes the later.
        let client = in_file.chain(&self.kafka_set).cloned().collect();
        let insync_min = self.kafka_insync_min;
        Some(KafkaConfig {
            prefix: self.kafka_prefix.clone().unwrap_or_default(),
            replication: self.kafka_replication,
            insync_min: insync_min.unwrap_or(self.kafka_replication.min(2)),
            allow_unsafe_topics: self.kafka_allow_unsafe,
            client,
            ..KafkaConfig::new(brokers, instance)
        })
    }

    /// The flags that name this log to another command, as one writes them, without secrets.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        let mut flag = |name: &str, value: &str| {
            words.push(format!("--{name} {}", shell(value)));
        };
        flag("kafka", self.kafka.as_deref().unwrap_or_default());
        if let Some(prefix) = self.kafka_prefix.as_deref().filter(|p| !p.is_empty()) {
            flag("kafka-prefix", prefix);
        }
        if self.kafka_replication != 3 {
            flag("kafka-replication", &self.kafka_replication.to_string());
        }
        if let Some(insync_min) = self.kafka_insync_min {
            flag("kafka-insync-min", &insync_min.to_string());
        }
        if let Some(file) = &self.kafka_config {
            flag("kafka-config", &file.path);
        }
        for (key, value) in &self.kafka_set {
            let shown = if KafkaConfig::is_secret(key) {
                "***"
            } else {
                value
            };
            flag("kafka-set", &format!("{key}={shown}"));
        }
        if self.kafka_allow_unsafe {
            words.push("--kafka-allow-unsafe".to_owned());
        }
        words.join(" ")
    }
}

/// The log of a stopped node, in a directory or on a cluster.
#[derive(Debug)]
pub(crate) struct LogArgs {
    data: Option<PathBuf>,
    pub(crate) on_kafka: KafkaArgs,
    /// `--data` was typed: a cluster that the environment names is not meant.
    is_directory: bool,
}

/// As clap reads it.
#[derive(Debug, Args)]
struct TypedLogArgs {
    /// The data directory of a stopped node, or a copy of one. Of --data and --kafka the one that is typed
    /// counts; where both come from the environment, --kafka
    #[arg(
        long,
        env = "ONHAND_DATA",
        value_name = "DIR",
        required_unless_present = "kafka"
    )]
    data: Option<PathBuf>,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    on_kafka: KafkaArgs,
}

impl FromArgMatches for LogArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (data, kafka) = (is_typed("data"), is_typed("kafka"));
        if data && kafka {
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                "--data names one log and --kafka another; write one of them\n",
            ));
        }
        let typed = TypedLogArgs::from_arg_matches(matches)?;
        Ok(Self {
            data: typed.data,
            on_kafka: typed.on_kafka,
            is_directory: data,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for LogArgs {
    fn augment_args(command: Command) -> Command {
        TypedLogArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        TypedLogArgs::augment_args_for_update(command)
    }
}

/// Where a log is.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Directory(&'a Path),
    Cluster(KafkaConfig),
}

impl LogArgs {
    /// The place that was named. On a cluster it is asked under a name of its own, from the machine's and that
    /// of the command: under a node's name it would take the node's place.
    ///
    /// # Errors
    /// Usage, when none was.
    pub(crate) fn place(&self, command: &str) -> Result<Place<'_>> {
        let kafka = self.on_kafka.config(&format!("{}-{command}", host_name()));
        match (&self.data, kafka) {
            (Some(data), _) if self.is_directory => Ok(Place::Directory(data)),
            (_, Some(kafka)) => Ok(Place::Cluster(kafka)),
            (Some(data), None) => Ok(Place::Directory(data)),
            (None, None) => Err(stop::usage(
                "name a directory with --data, or a cluster with --kafka",
            )),
        }
    }
}

/// Tells of records that were met in the log and are not its own, if there were any.
pub(crate) fn tell_of_strangers(log: &dyn Log) {
    let strangers = log.stats().strangers;
    if strangers > 0 {
        eprintln!(
            "{strangers} records in its topics were not written by this log, and are left out; a \
             running node names them in its log"
        );
    }
}

/// What a node that did not start, or stopped, ends the process with: exit code 3 where no broker
/// answers, 2 where it was told what cannot work.
pub(crate) fn stopped(error: RunError) -> anyhow::Error {
    if error.is_unreachable() {
        return stop::unreachable(error.to_string());
    }
    if error.is_wrong_setting() {
        return stop::usage(error.to_string());
    }
    if error.is_about_safety() {
        return stop::refused(with_flag(&error));
    }
    error.into()
}

/// What is said of unsafe topics ends with allowing them.
fn with_flag(error: &RunError) -> String {
    format!("{error} (--kafka-allow-unsafe)")
}

/// As [`stopped`], for a log that is only read: what else is wrong is in what was asked for.
pub(crate) fn unopened(error: &RunError) -> anyhow::Error {
    let is_unreachable = error.is_unreachable();
    let end = if is_unreachable {
        stop::unreachable
    } else {
        stop::usage
    };
    if error.is_about_safety() {
        return end(with_flag(error));
    }
    end(error.to_string())
}

/// Reads `KEY=VALUE`. What is wrong is said without it: it may be a secret.
#[derive(Clone, Copy)]
struct KeyValue;

impl TypedValueParser for KeyValue {
    type Value = (String, String);

    fn parse_ref(
        &self,
        _: &Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        value.to_str().and_then(key_value).ok_or_else(|| {
            clap::Error::raw(
                ErrorKind::ValueValidation,
                "a value of --kafka-set is no KEY=VALUE; write socket.keepalive.enable=true\n",
            )
        })
    }
}

fn key_value(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let key = key.trim();
    (!key.is_empty()).then(|| (key.to_owned(), value.trim().to_owned()))
}

fn settings_file(path: &str) -> Result<SettingsFile, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let lines = text.lines().map(str::trim).zip(1..);
    let said = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let settings = said.map(|(line, number)| {
        key_value(line).ok_or_else(|| format!("line {number} is no KEY=VALUE"))
    });
    Ok(SettingsFile {
        path: path.to_owned(),
        settings: settings.collect::<Result<_, _>>()?,
    })
}

fn instance(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an instance needs a name; write onhand-1".to_owned());
    }
    prefix(text)
}

/// Kafka takes these letters in its names; the bound leaves room for what is put to them.
fn prefix(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.len() <= 100 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("write up to 100 of a-z, A-Z, 0-9, ., _ and -".to_owned())
    }
}

/// The name that this machine goes by, in the letters that Kafka takes.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let legal = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let name: String = name.chars().filter(legal).take(80).collect();
    if name.is_empty() {
        "onhand".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct OnKafka {
        #[command(flatten)]
        args: KafkaArgs,
    }

    fn parsed(words: &[&str]) -> Result<KafkaArgs, String> {
        let words = ["onhand", "--kafka", "b:1"].iter().chain(words);
        let parsed = OnKafka::try_parse_from(words);
        parsed.map(|parsed| parsed.args).map_err(|e| e.to_string())
    }

    #[test]
    fn settings_come_from_a_file_and_the_line_and_secrets_are_not_printed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("client");
        let text = "# for a trial\n\nsasl.username = shop\nsasl.password = a=b\n";
        std::fs::write(&file, text).expect("written");
        let file = file.to_str().expect("a name");
        let set = [
            "--kafka-config",
            file,
            "--kafka-set",
            "sasl.password=hunter2",
        ];
        let args = parsed(&set).expect("it is right");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let config = args.config("a").expect("a cluster");
        let wanted = [
            pair("sasl.username", "shop"),
            pair("sasl.password", "a=b"),
            pair("sasl.password", "hunter2"),
        ];
        assert_eq!(config.client, wanted);
        let words = args.words();
        assert!(words.contains("sasl.password=***"), "{words}");
        assert!(words.contains(&format!("--kafka-config {file}")), "{words}");
        let wrong = parsed(&["--kafka-set", "sasl.password:hunter2"]).expect_err("no =");
        assert!(
            wrong.contains("--kafka-set") && !wrong.contains("hunter2"),
            "{wrong}"
        );
        std::fs::write(file, "sasl.password\thunter2").expect("written");
        let wrong = parsed(&["--kafka-config", file]).expect_err("no =");
        assert!(
            wrong.contains("line 1") && !wrong.contains("hunter2"),
            "{wrong}"
        );
    }

    #[test]
    fn one_copy_needs_no_second_flag_and_a_wrong_name_is_told_by_its_flag() {
        let config =
            |words: &[&str]| parsed(words).map(|args| args.config("a").map(|c| c.insync_min));
        assert_eq!(config(&["--kafka-replication", "1"]), Ok(Some(1)));
        assert_eq!(config(&[]), Ok(Some(2)));
        for flag in ["--instance", "--kafka-prefix"] {
            let wrong = parsed(&[flag, "a b"]).expect_err(flag);
            assert!(wrong.contains(flag), "{wrong}");
        }
    }
}
