"""Redis with a script that takes stock and appends an event (deduct.lua), driven by its own redis-benchmark.

These are its durable settings, read back from the server before each sample: appendonly yes, appendfsync
always, so that it answers after fdatasync. For its own good: no snapshots and no rewrite of its file within
a sample. It does less than onhand: it knows no command twice, and keeps one stream, not a history by SKU."""

import csv
import pathlib
import shutil
import signal

from measure import Failed, Skipped, free_port, install, run, server

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
KIND = {"save": "", "auto-aof-rewrite-percentage": "0"}
SKUS = 10_000
SCRIPT = pathlib.Path(__file__).with_name("deduct.lua")
# Names as redis-benchmark draws them: a number of twelve digits.
STOCK_UP = f"for n = 0, {SKUS - 1} do redis.call('SET', string.format('stock:%012d', n), 1000000000) end"


class Redis:
    def __init__(self, work, probe):
        self.probe = probe
        if not shutil.which("redis-server"):
            install("redis-server")
        if not shutil.which("redis-benchmark"):
            raise Skipped("its package brought no redis-benchmark")
        version = run(["redis-server", "--version"])
        self.name = "Redis " + next(part[2:] for part in version.split() if part.startswith("v="))
        self.settings = (
            ", ".join(f"{name} {value or 'none'}" for name, value in {**DURABLE, **KIND}.items())
            + "; loopback TCP; an empty directory for each sample"
        )
        self.data, self.log = work / "redis", work / "redis.log"

    def deductions(self, clients, pipeline, count, skus=SKUS):
        return lambda: self.sample(clients, pipeline, count, skus)

    def sample(self, clients, pipeline, count, skus):
        port = free_port()
        there = ["-h", "127.0.0.1", "-p", port]

        def ask(*words):
            answer = run(["redis-cli", *there, *words]).strip()
            if answer.startswith("ERR"):
                raise Failed(answer)
            return answer

        def ready():
            try:
                return ask("PING") == "PONG"
            except Failed:
                return False

        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", self.data]
        for name, value in {**DURABLE, **KIND}.items():
            command += [f"--{name}", value]
        self.data.mkdir()
        try:
            with server(command, self.log, ready, signal.SIGTERM):
                for name, value in DURABLE.items():
                    if (found := ask("CONFIG", "GET", name).split()[-1]) != value:
                        raise Failed(f"{name} is {found}, not {value}")
                ask("EVAL", STOCK_UP, 0)
                script = ask("SCRIPT", "LOAD", SCRIPT.read_text())
                bench = ["redis-benchmark", *there, "-c", clients, "-P", pipeline, "-n", count]
                bench += ["-r", skus, "--csv", "--precision", 3]
                bench += ["EVALSHA", script, 2, "stock:__rand_int__", "events", 1]
                said, around = self.probe.beside(lambda: run(bench))
                # A pipeline's last round may carry commands beyond the count.
                written = int(ask("XLEN", "events"))
                if not count <= written < count + clients * pipeline:
                    raise Failed(f"{count} were asked for and {written} are in the stream: {said}")
        finally:
            shutil.rmtree(self.data, ignore_errors=True)
        titles, figures = list(csv.reader(said.splitlines()))[-2:]
        named = dict(zip(titles, figures))
        figures = {
            "rate": float(named["rps"]),
            "p50_us": float(named["p50_latency_ms"]) * 1e3,
            "p99_us": float(named["p99_latency_ms"]) * 1e3,
            "count": count,
        }
        return figures, around
