#!/usr/bin/env python3
"""onhand on Kafka beside the real Kafka Streams: the same broker program, in the same run.

    make bench-kafka                  both questions, three rounds, about an hour
    bench/kafka.py drain              one of them (after `make build`)

ONHAND_REPEAT        rounds: each gives every contestant one sample [3]
ONHAND_DIR           a directory on the disk to measure [/tmp]
ONHAND_PARTITIONS    of every topic, for all contestants [4]

Both take single commands that another program wrote to a topic, keyed by SKU, check and update a store that
is itself written to the log, and put out outcomes, all exactly once, on one broker with one copy, 100,000
SKUs. Kafka Streams does nothing else. onhand reads JSON from `stock.inbox`, and also knows each command by its
name, folds it by its time, keeps history and numbers every change; `views` says which JSON topics it
writes as well: none, the outcomes as Kafka Streams does, or all four; `packed`: with many changes or
outcomes in one record.

`drain`: a million commands lie in the topic while the contestant is stopped (SIGSTOP); from when it goes on until the
last outcome is committed. Before it, 300,000 warm it up. By core: of its own process, not of the broker.
`rate`: 10,000 commands a second for 120 s; from when a command was due until a read_committed consumer has its
outcome, of the second half. Without views nobody reads outcomes from a topic: there the commands go through one
HTTP stream, until its reader has the outcome, which comes once the transaction is committed.

Each sample has a broker, topics and a directory of its own. Needs Java 17 (a JDK) and Maven."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

sys.dont_write_bytecode = True  # nothing is left in the checkout

from measure import Failed, Skipped, server
from onhand import BINARY
from paced import paced
from peers.streams import PARTITIONS, KafkaStreams, broker, client, cpu_seconds, java
from questions import Contestant, Line, Question
from run import perform

SKUS = 100_000
WARM = 300_000
COUNT = 1_000_000
RATE = 10_000
RATE_SECONDS = 120
PATIENCE = 180


class OnhandOnKafka:
    form, into, out = "json", "stock.inbox", "stock.outcomes"

    def __init__(self, views, packed=False):
        self.views = views
        self.told = ["--views", views, *(["--pack-views"] if packed else [])]
        self.name = f"onhand, views {views}{', packed' if packed else ''}"
        told = " ".join(self.told)
        self.settings = f"serve --kafka, {PARTITIONS} partitions, JSON from stock.inbox, {told}, one copy"
        self.url = None

    @contextlib.contextmanager
    def running(self, brokers, work):
        log, data = work / "onhand.log", work / "onhand"

        def ready():
            said = re.search(r"^listening on (\S+)", log.read_text(), re.MULTILINE)
            if said:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{said[1]}/readyz", timeout=5):
                    return said[1]
            return None

        command = [BINARY, "serve", "--data", data, "--listen", "127.0.0.1:0", "--partitions", PARTITIONS]
        command += ["--kafka", brokers, "--kafka-allow-unsafe", "--kafka-replication", 1, "--kafka-insync-min", 1]
        command += [*self.told, "--inbox", "on"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ONHAND_")}
        try:
            with server(command, log, ready, signal.SIGTERM, env=environment) as url:
                self.url = url
                yield pid_of(data)
        finally:
            shutil.rmtree(data, ignore_errors=True)

    def decided(self, count):
        """Without views nobody writes single outcomes: the node is asked how many names it knows."""
        if self.views != "off":
            return None

        def reached():
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            known = re.search(r"^onhand_ids(?:_remembered)? (\d+)", text, re.MULTILINE)
            return int(known[1]) >= count

        return reached


def pid_of(data):
    """The process that serves that directory."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"serve" in words and str(data).encode() in words:
                    return int(entry.name)
    raise Failed("the node's process was not found")


def until_drained(contestant, brokers, count):
    """Waits until so many outcomes are committed; a call that gives when that was."""
    if reached := contestant.decided(count):

        def wait():
            until = time.time() + PATIENCE
            while not reached():
                if time.time() > until:
                    raise Failed(f"{count} commands were not decided within {PATIENCE} s")
                time.sleep(0.02)
            return time.time()

        return wait
    process = subprocess.Popen(
        java("drain", brokers, contestant.out, count), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def wait():
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as late:
            process.kill()
            raise Failed("outcomes were not seen in time") from late
        seen = json.loads(said)
        if seen["seen"] < count:
            raise Failed(f"{seen['seen']} of {count} outcomes came")
        return seen["at_ms"] / 1e3

    return wait


def drain(contestant, work, probe):
    def sample():
        with broker(work / "kafka") as brokers, contestant.running(brokers, work) as pid:
            client("load", brokers, contestant.into, contestant.form, WARM, SKUS)
            until_drained(contestant, brokers, WARM)()
            os.kill(pid, signal.SIGSTOP)
            try:
                # Other names than those that warmed it up: JSON commands are known by them.
                client("load", brokers, contestant.into, contestant.form, COUNT, SKUS, WARM)
                wait = until_drained(contestant, brokers, WARM + COUNT)
                time.sleep(4)  # its reader has caught up with what is there
                before = cpu_seconds(pid)

                def drive():
                    began = time.time()
                    os.kill(pid, signal.SIGCONT)
                    took = wait() - began
                    used = cpu_seconds(pid) - before
                    return {"per_core": COUNT / used, "rate": COUNT / took, "cores": used / took}

                return probe.beside(drive)
            finally:
                os.kill(pid, signal.SIGCONT)

    return sample


def through_topics(contestant, brokers):
    arguments = contestant.into, contestant.out, contestant.form, RATE, RATE_SECONDS, SKUS
    said = client("rate", brokers, *arguments)
    if said["missing"]:
        raise Failed(f"{said['missing']} outcomes did not come")
    return {"p99_ms": said["p99_ms"], "p50_ms": said["p50_ms"], "max_ms": said["max_ms"]}


def through_http(contestant, _brokers):
    return paced(contestant.url, RATE, RATE_SECONDS, SKUS)


def rate(contestant, work, probe, through=through_topics):
    def sample():
        with broker(work / "kafka") as brokers, contestant.running(brokers, work):
            client("load", brokers, contestant.into, contestant.form, WARM, SKUS)
            until_drained(contestant, brokers, WARM)()
            return probe.beside(lambda: through(contestant, brokers))

    return sample


def prepare(work, probe, report):
    try:
        java()
    except Skipped as why:
        sys.exit(f"skipped: Kafka Streams: {why}")
    quick, often, rocks = KafkaStreams(), KafkaStreams(commit_ms=10), KafkaStreams(store="rocksdb")
    bare, alike, whole = OnhandOnKafka("off"), OnhandOnKafka("outcomes"), OnhandOnKafka("on")
    packed, all_packed = OnhandOnKafka("outcomes", packed=True), OnhandOnKafka("on", packed=True)
    report["settings"] = {one.name: one.settings for one in (bare, alike, packed, whole, all_packed, quick)}
    return [
        Question(
            "drain",
            "A million commands that lie in a topic, exactly once: records/s for each core of the process",
            "per_core",
            [
                Contestant(bare.name, drain(bare, work, probe)),
                Contestant(alike.name, drain(alike, work, probe)),
                Contestant(packed.name, drain(packed, work, probe)),
                Contestant(whole.name, drain(whole, work, probe)),
                Contestant(all_packed.name, drain(all_packed, work, probe)),
                Contestant("Kafka Streams, memory store", drain(quick, work, probe)),
                Contestant("Kafka Streams, RocksDB store", drain(rocks, work, probe)),
            ],
            [Line("records/s in all", "rate"), Line("cores used", "cores")],
        ),
        Question(
            "rate",
            "10,000 commands/s, from due to the committed outcome at its reader: p99 in ms, less is better",
            "p99_ms",
            [
                Contestant(f"{bare.name}, over HTTP", rate(bare, work, probe, through_http)),
                Contestant(alike.name, rate(alike, work, probe)),
                Contestant(packed.name, rate(packed, work, probe)),
                Contestant(whole.name, rate(whole, work, probe)),
                Contestant("Kafka Streams, commit every 100 ms", rate(quick, work, probe)),
                Contestant("Kafka Streams, commit every 10 ms", rate(often, work, probe)),
            ],
            [Line("p50 ms", "p50_ms"), Line("max ms", "max_ms")],
        ),
    ]


def main():
    return perform(int(os.environ.get("ONHAND_REPEAT", 3)), prepare, "kafka-")


if __name__ == "__main__":
    sys.exit(main())
