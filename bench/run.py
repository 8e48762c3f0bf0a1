#!/usr/bin/env python3
"""The figures of docs/benchmarks.md, measured here, with the peers beside us in the same run.

    make bench                      everything, five rounds, about eight minutes on a quick disk
    bench/run.py single latency     these questions alone (after `make build`)

ONHAND_REPEAT    rounds: each gives every contestant one sample [5]
ONHAND_DIR       a directory on the disk to measure [/tmp]
ONHAND_TEST_DATA where online-retail is [../shared/data]

In each round each question is put to onhand and then to each peer, so that all of them see the same hours.
Terms for all: acknowledged after fdatasync, client and server on the same cores, over loopback TCP, a server
started for the sample and ended after it. How each one is set up stands at the top of onhand.py,
peers/postgresql.py and peers/redis.py, and is printed. Before and after each sample the disk is probed; a
ratio is the median of the ratios of single rounds, of those in which the probes were alike and nobody else
held the processors.

Peers that are missing are installed (Debian packages, as root) or skipped by name. Every server and file of
a run is gone at its end, however it ends; what stays is a JSON file with all samples in target/bench."""

import datetime
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing is left in the checkout

from measure import Failed, Probe, Skipped, commit, machine, undisturbed
from onhand import Onhand
from peers.postgresql import PostgreSQL
from peers.redis import Redis
from questions import questions
from tables import spelt, table

ROOT = pathlib.Path(__file__).resolve().parent.parent


def available(peer, work, probe):
    try:
        return peer(work, probe)
    except Skipped as why:
        print(f"skipped: {peer.__name__}: {why}", flush=True)
        return None


def take(question, contestant, number):
    """One sample, as it is kept."""
    os.sync()  # what the one before has written and removed is not charged to this one
    taken = {"round": number, "question": question.name, "contestant": contestant.label}
    taken["figures"], around = contestant.sample()
    return {**taken, **around}


def play(asked, rounds, samples):
    """All rounds. A sample that fails is said and missing; gives how many did."""
    failed = 0
    for number in range(1, rounds + 1):
        print(f"== round {number} of {rounds}", flush=True)
        for question in asked:
            if question.once and number < rounds:
                continue
            for contestant in question.contestants:
                said = f"  {question.name}: {contestant.label}:"
                try:
                    sample = take(question, contestant, number)
                except Failed as why:
                    failed += 1
                    print(said, f"FAILED: {why}", flush=True)
                    continue
                samples.append(sample)
                figure = spelt(sample["figures"][question.figure])
                before, after = map(spelt, sample["probe_us"])
                busy = "" if undisturbed(sample) else f"; others hold {sample['busy_before']:.0%} of the processors"
                print(said, f"{figure}; probes {before} and {after} us{busy}", flush=True)
    return failed


def perform(rounds, prepare, name=""):
    """All of a run: `prepare` gives the questions, of a directory, its probe and the report, to which it adds what
    was set. Prints the tables and keeps every sample; gives the process's exit code."""
    wanted = sys.argv[1:]
    # Ended by a signal is ended like any other way: what stands in `finally` still runs.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = datetime.datetime.now(datetime.timezone.utc)
    report = {"commit": commit(ROOT), "began": began.isoformat(timespec="seconds"), "rounds": rounds}
    samples = []
    work = pathlib.Path(tempfile.mkdtemp(prefix="onhand-bench.", dir=os.environ.get("ONHAND_DIR", "/tmp")))
    try:
        work.chmod(0o711)  # PostgreSQL's user passes through to its own directory
        report["machine"] = machine(work)
        print(f"commit {report['commit']}, {report['began']}\n{report['machine']}", flush=True)
        asked = prepare(work, Probe(work), report)
        for one, settings in report["settings"].items():
            print(f"{one}: {settings}", flush=True)
        if unknown := set(wanted) - {question.name for question in asked}:
            sys.exit(f"no such question: {', '.join(unknown)}; there are {', '.join(q.name for q in asked)}")
        asked = [question for question in asked if not wanted or question.name in wanted]
        failed = play(asked, rounds, samples)
        for question in asked:
            print(f"\n{table(question, samples)}")
        if disturbed := sum(not undisturbed(sample) for sample in samples):
            print(f"\n{disturbed} of {len(samples)} samples were disturbed by others, and stand in no ratio")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if samples:
            raw = ROOT / "target" / "bench" / f"{name}{began:%Y%m%dT%H%M%SZ}-{report['commit']}.json"
            raw.parent.mkdir(parents=True, exist_ok=True)
            raw.write_text(json.dumps({**report, "samples": samples}, indent=1) + "\n")
            print(f"\nall samples: {raw}")
    return 1 if failed else 0


def main():
    data = pathlib.Path(os.environ.get("ONHAND_TEST_DATA", ROOT.parent / "shared" / "data")) / "online-retail"

    def prepare(work, probe, report):
        ours = Onhand(work, probe)
        peers = available(PostgreSQL, work, probe), available(Redis, work, probe)
        report["settings"] = {one.name: one.settings for one in (ours, *peers) if one}
        retail = sorted(data.glob("*.csv.gz"))
        if not retail:
            print(f"skipped: import: {data} is not there")
        return questions(ours, *peers, retail)

    return perform(int(os.environ.get("ONHAND_REPEAT", 5)), prepare)


if __name__ == "__main__":
    sys.exit(main())
