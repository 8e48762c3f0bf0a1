"""onhand itself: each sample on a node of its own with an empty directory, `--durability sync`, asked over
loopback TCP by `onhand bench`."""

import json
import os
import pathlib
import re
import shutil
import signal

from measure import Failed, run, server

RELEASE = pathlib.Path(__file__).parent.parent / "target" / "release"
BINARY = RELEASE / "onhand"
EXAMPLE = RELEASE / "examples" / "facts"


def seconds(match):
    """A number and its unit, as Rust prints a duration."""
    return float(match[1]) / {"s": 1, "ms": 1e3}[match[2]]


class Onhand:
    name = "onhand"
    settings = "serve --durability sync, one worker thread; loopback TCP; an empty directory for each sample"

    def __init__(self, work, probe):
        self.work, self.probe = work, probe
        for binary in (BINARY, EXAMPLE):
            if not binary.exists():
                raise SystemExit(f"{binary} is not there: `make bench` builds it")
        # Settings of somebody's own node must not reach this one.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("ONHAND_")}

    def bench(self, workload, count, skus=10_000):
        """A sample of `onhand bench`."""

        def ask(url):
            command = [BINARY, "bench", workload, "--url", url, "--count", count, "--skus", skus]
            command += ["--probe-dir", self.work, "--output", "json"]
            said, around = self.probe.beside(lambda: run(command, env=self.environment))
            figures = json.loads(said)["samples"][0]
            figures["rate"] = figures.pop("commands_per_s")
            return figures, around

        return lambda: self.on_a_node(ask)

    def import_lines(self, files):
        """A sample of `onhand import`."""

        def ask(url):
            command = [BINARY, "import", *files, "--url", url, "--format", "online-retail"]
            command += ["--quarantine", self.work / "kept.csv", "--output", "json"]
            said, around = self.probe.beside(lambda: run(command, env=self.environment))
            return {"rate": json.loads(said)["lines_per_s"]}, around

        return lambda: self.on_a_node(ask)

    def on_a_node(self, ask):
        data, log = self.work / "onhand", self.work / "onhand.log"

        def ready():
            said = re.search(r"^listening on (\S+)", log.read_text(), re.MULTILINE)
            return said and said[1]

        command = [BINARY, "serve", "--data", data, "--listen", "127.0.0.1:0", "--durability", "sync"]
        try:
            with server(command, log, ready, signal.SIGTERM, env=self.environment) as url:
                return ask(url)
        finally:
            shutil.rmtree(data, ignore_errors=True)

    def without_http(self, facts):
        """A sample of the `facts` example: packs straight into a node in one process."""

        def sample():
            data = self.work / "facts"
            try:
                said, around = self.probe.beside(lambda: run([EXAMPLE, data, facts, 10_000]))
            finally:
                shutil.rmtree(data, ignore_errors=True)
            rate = re.search(r": (\d+)/s, \d+ syncs, (\d+) B of log each", said)
            quick, slow = (
                re.search(rf"restarted with snapshots {which} in ([\d.]+)(m?s)", said)
                for which in ("true", "false")
            )
            if not (rate and quick and slow):
                raise Failed(f"the facts example said something else: {said}")
            figures = {
                "rate": float(rate[1]),
                "bytes": float(rate[2]),
                "restart_snapshot_s": seconds(quick),
                "restart_log_s": seconds(slow),
            }
            return figures, around

        return sample
