"""The real Kafka Streams with the heart of onhand's job (StreamsPeer.java), and the client in the same file
that drives either of them: it writes commands, counts committed outcomes, and times them."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

from measure import Failed, Skipped

SOURCE = pathlib.Path(__file__).with_name("StreamsPeer.java")
TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "kafka" / "brokers.py"
PARTITIONS = int(os.environ.get("ONHAND_PARTITIONS", 4))
THREADS = 2
COMMIT_MS = 100  # the default of exactly_once_v2


def java(*arguments, heap="1g"):
    """The command line of a mode of StreamsPeer.java: the JDK compiles it as it starts."""
    if not shutil.which("java"):
        raise Skipped("java is not on the PATH")
    jars = subprocess.run([TOOL, "jars"], capture_output=True, text=True, check=False)
    if jars.returncode != 0:
        raise Skipped(jars.stderr.strip())
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return ["java", f"-Xmx{heap}", quiet, "-cp", f"{jars.stdout.strip()}/*", str(SOURCE), *map(str, arguments)]


def client(*arguments):
    """Runs a mode to its end, and gives what it said."""
    done = subprocess.run(java(*arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"StreamsPeer {arguments[0]}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def broker(home):
    """One broker on a fresh directory, with the memory and the collector that Kafka itself starts it with."""
    start = [TOOL, "start", home, "--brokers", "1", "--jvm", "kafka"]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr.strip())
    try:
        yield json.loads((home / "brokers.json").read_text())["bootstrap"]
    finally:
        subprocess.run([TOOL, "stop", home], capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


class KafkaStreams:
    name = "Kafka Streams 4.2.0"
    form, into, out = "bytes", "peer.commands", "peer.outcomes"

    def __init__(self, store="memory", commit_ms=COMMIT_MS):
        self.store, self.commit_ms = store, commit_ms
        self.settings = (
            f"exactly_once_v2, {PARTITIONS} partitions, {THREADS} threads, commit every {commit_ms} ms, store {store} "
            "with its changelog, 96 B commands, 48 B outcomes, one copy"
        )

    @contextlib.contextmanager
    def running(self, brokers, work):
        """The process while the block runs, once it has its partitions."""
        for topic in (self.into, self.out):
            client("topic", brokers, topic, PARTITIONS)
        state = work / "streams"
        command = java("streams", brokers, THREADS, self.commit_ms, self.store, state)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            if b"running" not in process.stdout.readline():
                raise Failed("Kafka Streams did not start")
            yield process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(state, ignore_errors=True)

    def decided(self, _count):
        """Nobody can be asked but the topic itself."""
        return None


def cpu_seconds(pid):
    """What a process has used of the processors, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
