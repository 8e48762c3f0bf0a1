//! The demo's node: a child process of this very binary, on a directory of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A node on an empty or small directory is up in well under a second; this is for a busy machine.
const START_MAX: Duration = Duration::from_secs(20);
/// A clean stop finishes what is under way and syncs once.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Everything the demo leaves on the disk; removed in the end unless the user named it.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    temporary: bool,
}

impl Home {
    /// The named directory, which must be empty, or a new temporary one.
    pub(crate) fn new(asked: Option<&Path>) -> Result<Home> {
        let (path, temporary) = match asked {
            Some(path) => (path.to_owned(), false),
            None => {
                let name = format!("onhand-demo-{}", crate::entropy::new_id());
                (std::env::temp_dir().join(name), true)
            }
        };
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}; name another with --data", path.display()))?;
        let mut entries = fs::read_dir(&path)
            .with_context(|| format!("cannot list {}; name another with --data", path.display()))?;
        if entries.next().is_some() {
            return Err(crate::stop::usage(format!(
                "{} is not empty; name an empty or new directory with --data",
                path.display()
            )));
        }
        Ok(Home { path, temporary })
    }

    /// A home of its own within this one, removed with it.
    pub(crate) fn room(&self, name: &str) -> Result<Home> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Home {
            path,
            temporary: false,
        })
    }

    /// The node's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// What the node says of itself.
    pub(crate) fn words(&self) -> PathBuf {
        self.path.join("node.log")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!(
                "{} could not be removed: {error}; remove it by hand",
                self.path.display()
            );
        }
    }
}

/// A running node. Dropped without [`Node::stop`] it is killed.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    /// `http://ADDRESS`.
    pub(crate) url: String,
}

impl Node {
    /// Starts a node on a journal, and waits until it says where it listens.
    pub(crate) fn start(home: &Home, listen: &str) -> Result<Node> {
        Node::start_with(home, listen, &[])
    }

    /// As [`Node::start`], with more of `onhand serve`'s options.
    pub(crate) fn start_with(home: &Home, listen: &str, options: &[&str]) -> Result<Node> {
        let binary = std::env::current_exe().context("cannot find this program's own file")?;
        let words = File::options()
            .create(true)
            .append(true)
            .open(home.words())
            .with_context(|| format!("cannot write {}", home.words().display()))?;
        let mut command = Command::new(binary);
        // The settings of another node, its cluster before all, are not the demo's.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("ONHAND_")) {
            command.env_remove(name);
        }
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(home.data())
            .args(["--listen", listen])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(words)
            // Ctrl-C reaches the demo alone, which stops the node: a second signal would cut it short.
            .process_group(0)
            .spawn()
            .context("cannot start a node")?;
        let stdout = child
            .stdout
            .take()
            .context("the node's stdout was not given")?;
        let mut node = Node {
            child,
            url: String::new(),
        };
        let (sender, receiver) = mpsc::channel();
        // Ends with the node: it reads until its stdout closes.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("listening on ") {
                    // Nobody may be listening any more; then nothing is lost.
                    let _ = sender.send(url.to_owned());
                }
            }
        });
        let until = Instant::now() + START_MAX;
        loop {
            if let Ok(url) = receiver.recv_timeout(Duration::from_millis(20)) {
                node.url = url;
                return Ok(node);
            }
            let ended = node
                .child
                .try_wait()
                .context("cannot look after the node")?;
            if ended.is_some() || Instant::now() > until {
                let words = fs::read_to_string(home.words()).unwrap_or_default();
                let last: Vec<&str> = words.lines().rev().take(5).collect();
                bail!(
                    "the node did not start: {}; the lines above are its own",
                    last.into_iter().rev().collect::<Vec<_>>().join(" | ")
                );
            }
        }
    }

    /// `host:port`, to start another node at the same place.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Its process, as people name it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would: nothing of it runs any more when this returns.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("the node could not be killed")?;
        self.child.wait().context("cannot look after the node")?;
        Ok(())
    }

    /// Asks it to stop cleanly (SIGTERM) and waits until it has.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the node has no process id")?;
        kill_process(pid, Signal::TERM).context("the node could not be asked to stop")?;
        self.wait()
    }

    /// Waits until it has ended, for a bounded time.
    fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot look after the node")?
            {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!(
                    "the node did not stop within {} s; it is killed",
                    STOP_MAX.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end by itself meanwhile; then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_home_is_removed_and_a_named_one_stays() {
        let home = Home::new(None).expect("made");
        let path = home.path.clone();
        assert!(path.exists());
        drop(home);
        assert!(!path.exists());
        let dir = tempfile::tempdir().expect("a directory");
        let named = dir.path().join("mine");
        let home = Home::new(Some(&named)).expect("made");
        fs::create_dir(home.data()).expect("made");
        drop(home);
        assert!(named.exists());
        for used in [&*named, dir.path()] {
            let error = Home::new(Some(used)).expect_err("it holds something");
            assert!(error.to_string().contains("--data"), "{error}");
        }
    }
}
