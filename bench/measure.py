"""What every sample needs, whoever is measured: the disk probe beside it, servers that end, and medians."""

import contextlib
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

PROBES = 100  # 10 ms of a quiet machine, 400 ms of a busy one
PROBE_FILE_BYTES = 1 << 20
BLOCK = b"\x5a" * 4096
# Two samples are compared where the medians of their four probes are no further apart than this ...
REGIME_FACTOR = 3.0
# ... and neither began while others held more than this share of the processors. Whoever has just been served
# then waits behind them for a tick of the scheduler, 4 ms, which looks like a slow disk and hits one way of
# waiting harder than another: ratios of such samples would be chance.
BUSY_SHARE_MAX = 0.1
LOOK_S = 0.25


class Skipped(Exception):
    """Somebody cannot be measured here, and why."""


class Failed(Exception):
    """A sample gave no figure, and why."""


class Probe:
    """Overwrites and syncs blocks of a file written through once, as a preallocated log does."""

    def __init__(self, work):
        self.file = os.open(work / "probe", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self.file, bytes(PROBE_FILE_BYTES), 0)
        os.fsync(self.file)

    def p50_us(self):
        times = []
        for number in range(PROBES):
            began = time.perf_counter_ns()
            os.pwrite(self.file, BLOCK, number * len(BLOCK) % PROBE_FILE_BYTES)
            os.fdatasync(self.file)
            times.append((time.perf_counter_ns() - began) / 1e3)
        return statistics.median(times)

    def beside(self, drive):
        """Drives a server that is up, stocked and idle; gives its answer, and what the machine was like. The
        probes stand as near as can be: what is written and removed around a sample would disturb them."""
        busy = busy_share()
        before = self.p50_us()
        answer = drive()
        return answer, {"busy_before": busy, "probe_us": [before, self.p50_us()]}


def busy_share():
    """The share of the processors that is not idle: the work of others, while nobody is measured."""

    def ticks():
        with open("/proc/stat") as lines:
            all_ = [int(word) for word in lines.readline().split()[1:9]]
        return all_[3] + all_[4], sum(all_)  # idle and waiting for a disk, of all

    idle_before, before = ticks()
    time.sleep(LOOK_S)
    idle_after, after = ticks()
    return 1 - (idle_after - idle_before) / max(after - before, 1)


def undisturbed(sample):
    return sample["busy_before"] <= BUSY_SHARE_MAX


def comparable(one, other):
    """Whether both samples saw a machine of their own, and the same disk."""
    probes = one["probe_us"] + other["probe_us"]
    return undisturbed(one) and undisturbed(other) and max(probes) <= REGIME_FACTOR * min(probes)


def percentile(ascending, per_mille):
    """The nearest rank, so a time that was measured, as `onhand bench` takes it."""
    return ascending[max(-(-len(ascending) * per_mille // 1000), 1) - 1]


def run(command, **more):
    """Runs a command to its end and gives what it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{pathlib.Path(command[0]).name}: {' / '.join(said[-3:]) or done.returncode}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(command, log, ready, end, **more):
    """A server while the block runs. `ready` is asked what the server's users want to know, and
    answers it once there is an answer; `end` is the signal of its clean end. It has a session of its
    own: Ctrl-C reaches this program alone, which then ends the server."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **more,
        )
    try:
        until = time.monotonic() + 30
        while not (answer := ready()):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{command[0]} did not start: {pathlib.Path(log).read_text()[-500:]}")
            time.sleep(0.02)
        yield answer
    finally:
        process.send_signal(end)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def install(package):
    """Installs a Debian package. Its service stays off: each peer is started here, with its own
    directory and port."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Skipped(f"not installed, and only root can: apt-get install {package}")
    print(f"installing {package} ...", flush=True)
    policy = pathlib.Path("/usr/sbin/policy-rc.d")  # asked by Debian's packages before they start anything
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    get = ["apt-get", "-qq", "-y", "--no-install-recommends"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        try:
            run([*get, "install", package], env=quiet)
        except Failed:  # the lists of packages may be old, or not there at all
            run([*get, "update"], env=quiet)
            run([*get, "install", package], env=quiet)
    except Failed as why:
        raise Skipped(f"{package} cannot be installed: {why}") from why
    finally:
        if ours:
            policy.unlink()


@contextlib.contextmanager
def scratch():
    """A directory in memory for what a client writes down: it must not disturb the measured disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="onhand-bench.", dir=memory) as path:
        yield pathlib.Path(path)


def commit(checkout):
    try:
        describe = ["git", "-C", checkout, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        return run(describe).strip()
    except (Failed, OSError):
        return "no-commit"


def machine(work):
    """The machine in one line, as far as it tells."""

    def first(path, name):
        lines = pathlib.Path(path).read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "?")

    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    disk = run(["df", "--output=fstype", work]).split()[-1]
    system = os.uname()
    return (
        f"{first('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"{system.sysname} {system.release}, {disk}, load {os.getloadavg()[0]:.2f} before the start"
    )
