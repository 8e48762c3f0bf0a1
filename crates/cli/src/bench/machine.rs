//! What was measured on, and how its disk feels right now.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::times::{Times, nanoseconds};
use crate::stop;

/// Syncs of one probe: 20 ms of a quick disk, 400 ms of a slow one.
pub(crate) const PROBES: usize = 100;
/// The probed file: written through once, so that a probe overwrites as the journal does.
const PROBE_FILE_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;

/// The machine, as far as it tells.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    commit: Option<String>,
}

/// Looks at this machine.
pub(crate) fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, name)| name.trim().to_owned());
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    Machine {
        cpu: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: if kernel.is_empty() {
            std::env::consts::OS.to_owned()
        } else {
            kernel
        },
        commit: option_env!("ONHAND_COMMIT")
            .map(str::to_owned)
            .or_else(head_commit),
    }
}

/// The commit of the checkout that the command runs in, where it runs in one.
fn head_commit() -> Option<String> {
    let git = std::process::Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let commit = String::from_utf8(git.stdout).ok()?.trim().to_owned();
    (git.status.success() && !commit.is_empty()).then_some(commit)
}

impl Machine {
    pub(crate) fn sentence(&self) -> String {
        let commit = self.commit.as_deref().unwrap_or("unknown");
        format!(
            "{}, {} cores, {}, commit {commit}",
            self.cpu, self.cores, self.kernel
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "commit": self.commit,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Overwrites and syncs blocks of a file of its own.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
    path: PathBuf,
    block: usize,
}

impl Probe {
    /// Makes the file and writes it through.
    ///
    /// # Errors
    /// Usage, where the directory cannot be written.
    pub(crate) fn open(dir: &Path) -> Result<Probe> {
        let path = dir.join(format!(".onhand-probe-{}", std::process::id()));
        let wrong = |error: std::io::Error| {
            stop::usage(format!(
                "the disk cannot be probed in {}: {error}; name a directory on the node's disk \
                 with --probe-dir",
                dir.display()
            ))
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(wrong)?;
        let probe = Probe {
            file,
            path,
            block: 0,
        };
        probe
            .file
            .write_all_at(&vec![0; PROBE_FILE_BYTES], 0)
            .map_err(wrong)?;
        probe.file.sync_all().map_err(wrong)?;
        Ok(probe)
    }

    /// One overwrite of a block and its sync, in nanoseconds.
    pub(crate) fn once(&mut self) -> Result<u64> {
        self.block = (self.block + 1) % (PROBE_FILE_BYTES / BLOCK_BYTES);
        let place = u64::try_from(self.block * BLOCK_BYTES).unwrap_or_default();
        let began = Instant::now();
        let synced = self
            .file
            .write_all_at(&[0x5a; BLOCK_BYTES], place)
            .and_then(|()| self.file.sync_data());
        let took = nanoseconds(began.elapsed());
        synced.map_err(|error| {
            stop::usage(format!(
                "the disk probe failed: {error}; choose another --probe-dir"
            ))
        })?;
        Ok(took)
    }

    /// Several, for their percentiles.
    pub(crate) fn times(&mut self, count: usize) -> Result<Times> {
        let times = (0..count).map(|_| self.once()).collect::<Result<_>>()?;
        Ok(Times::new(times))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!(
                "{} could not be removed: {error}; remove it by hand",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_measures_and_cleans_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut probe = Probe::open(dir.path()).expect("writable");
        assert!(probe.times(3).expect("synced").median() > 0.0);
        drop(probe);
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("still there").count(),
            0
        );
        let error = Probe::open(Path::new("/nowhere/at/all")).expect_err("no such place");
        assert!(error.to_string().contains("--probe-dir"));
    }
}
