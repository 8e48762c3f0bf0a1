//! Other programs on the brokers: kcat, and the console producer and consumer that come with Kafka.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::node::{finish, kafka, said};
use super::{PATIENCE, root};

/// What stands between key and value of a line. No JSON here has it.
const BETWEEN: char = '|';

/// The programs, and the brokers they speak to.
pub(crate) struct Others {
    bootstrap: String,
    jars: PathBuf,
}

/// A record as a program printed it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Printed {
    pub(crate) partition: u16,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Others {
    /// Where there are brokers and both programs; says what is missing where not.
    pub(crate) fn find() -> Option<Others> {
        let Some(bootstrap) = kafka() else {
            println!("skipped: ONHAND_TEST_KAFKA names no brokers");
            return None;
        };
        if !has_kcat() {
            println!("skipped: kcat is not here (Debian and Ubuntu: apt-get install kcat)");
            return None;
        }
        let jars = Command::new("python3")
            .arg(root().join("tools/kafka/brokers.py"))
            .arg("jars")
            .output();
        match jars {
            Ok(output) if output.status.success() => {
                let jars = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Others { bootstrap, jars })
            }
            other => {
                println!("skipped: Kafka's own programs are not here: {other:?}");
                None
            }
        }
    }

    fn kcat(&self, topic: &str) -> Command {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.bootstrap, "-t", topic]);
        command
    }

    fn java(&self, class: &str, topic: &str) -> Command {
        let mut command = Command::new("java");
        command
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"])
            .arg(self.jars.join("*"))
            .args([class, "--bootstrap-server", &self.bootstrap])
            .args(["--topic", topic]);
        command
    }

    /// kcat writes these, each with its key; its own partitioner chooses the partition.
    pub(crate) fn kcat_writes(&self, topic: &str, records: &[(String, String)], args: &[&str]) {
        let mut command = self.kcat(topic);
        command.args(["-P", "-K", &BETWEEN.to_string()]).args(args);
        feed(&mut command, lines(records).as_bytes());
    }

    /// kcat writes the bytes of that file as one record.
    pub(crate) fn kcat_writes_file(&self, topic: &str, file: &Path, args: &[&str]) {
        let mut command = self.kcat(topic);
        command.args(["-P", "-X", "message.max.bytes=40000000"]);
        feed(command.args(args).arg(file), b"");
    }

    /// Java's console producer writes these, each with its key.
    pub(crate) fn java_writes(&self, topic: &str, records: &[(String, String)]) {
        let mut command = self.java("org.apache.kafka.tools.ConsoleProducer", topic);
        command
            .args(["--reader-property", "parse.key=true"])
            .args(["--reader-property", &format!("key.separator={BETWEEN}")]);
        feed(&mut command, lines(records).as_bytes());
    }

    /// The bytes of one committed value, where these arguments say it lies.
    pub(crate) fn kcat_takes(&self, topic: &str, args: &[&str]) -> Vec<u8> {
        let mut command = self.kcat(topic);
        command
            .args([
                "-C",
                "-e",
                "-q",
                "-D",
                "",
                "-X",
                "isolation.level=read_committed",
            ])
            .args(args)
            .stdin(Stdio::null());
        let output = finish(&mut command, PATIENCE);
        assert!(output.status.success(), "{}", said(&output));
        output.stdout
    }

    /// Everything committed in a topic, as kcat prints it with this format.
    pub(crate) fn kcat_prints(&self, topic: &str, format: &str) -> Vec<String> {
        let mut command = self.kcat(topic);
        command
            .args(["-C", "-o", "beginning", "-e", "-q", "-f", format])
            .args(["-X", "isolation.level=read_committed"])
            .stdin(Stdio::null());
        let output = finish(&mut command, PATIENCE);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// Everything committed in a topic, as kcat reads it, sorted.
    pub(crate) fn kcat_reads(&self, topic: &str) -> Vec<Printed> {
        let lines = self.kcat_prints(topic, &format!("%p{BETWEEN}%k{BETWEEN}%s\n"));
        sorted(lines.iter().map(|line| line.splitn(3, BETWEEN).collect()))
    }

    /// That many committed records of a topic, as Java's console consumer reads them, sorted.
    pub(crate) fn java_reads(&self, topic: &str, count: usize) -> Vec<Printed> {
        let mut command = self.java("org.apache.kafka.tools.consumer.ConsoleConsumer", topic);
        command
            .args(["--from-beginning", "--isolation-level", "read_committed"])
            .args([
                "--max-messages",
                &count.to_string(),
                "--timeout-ms",
                "50000",
            ])
            .args(["--formatter-property", "print.partition=true"])
            .args(["--formatter-property", "print.key=true"])
            .args(["--formatter-property", &format!("key.separator={BETWEEN}")])
            .stdin(Stdio::null());
        let output = finish(&mut command, PATIENCE);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("Partition:"));
        sorted(lines.map(|line| line.splitn(3, BETWEEN).collect()))
    }
}

fn sorted<'l>(parts: impl Iterator<Item = Vec<&'l str>>) -> Vec<Printed> {
    let mut all: Vec<_> = parts
        .map(|parts| Printed {
            partition: parts[0].parse().unwrap(),
            key: parts[1].to_owned(),
            value: parts[2].to_owned(),
        })
        .collect();
    all.sort();
    all
}

fn lines(records: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in records {
        text.push_str(&format!("{key}{BETWEEN}{value}\n"));
    }
    text
}

/// Runs a program to its end with that on its standard input. It must end well.
fn feed(command: &mut Command, input: &[u8]) {
    // In a file: nothing here waits for the program to read.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = finish(command.stdin(file), PATIENCE);
    assert!(output.status.success(), "{}", said(&output));
}

/// Whether kcat is here; installs it where this machine lets us.
fn has_kcat() -> bool {
    let runs = || Command::new("kcat").arg("-V").output().is_ok();
    if runs() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let install = "apt-get update -qq && apt-get install -y -qq kcat";
    let installed = Command::new("sh")
        .args(["-c", install])
        .stdin(Stdio::null())
        .output();
    println!("kcat was installed: {installed:?}");
    runs()
}
