"""PostgreSQL doing what shops do with it for stock: movement.sql and reserve.sql, driven by its own pgbench.

These are its durable settings, read back from the server before each sample: fsync and synchronous_commit
on, wal_sync_method fdatasync, full_page_writes on (its defaults). For its own good: memory for all its
data, no checkpoint within a sample, no autovacuum, prepared statements, one round trip a transaction."""

import glob
import os
import pwd
import re
import signal

from measure import Failed, Skipped, free_port, install, percentile, run, scratch, server

DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_sync_method": "fdatasync",
    "full_page_writes": "on",
}
KIND = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": "100",
}
SCRIPTS = os.path.dirname(os.path.abspath(__file__))


def binaries():
    """Debian keeps the server and pgbench of each version in a directory of its own."""
    found = glob.glob("/usr/lib/postgresql/*/bin/pgbench")
    return os.path.dirname(max(found, key=lambda path: int(path.split("/")[4]))) if found else None


class PostgreSQL:
    def __init__(self, work, probe):
        self.probe = probe
        if not binaries():
            install("postgresql")
        self.bin = binaries()
        if not self.bin:
            raise Skipped("its package brought no pgbench")
        self.name = "PostgreSQL " + run([f"{self.bin}/postgres", "--version"]).split()[2]
        self.settings = (
            ", ".join(f"{name}={value}" for name, value in {**DURABLE, **KIND}.items())
            + "; pgbench -M prepared; loopback TCP; fresh tables for each sample"
        )
        # It refuses to run as root, who therefore lends it the package's user.
        self.identity = {}
        if os.geteuid() == 0:
            self.identity = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self.data, self.log = work / "postgresql", work / "postgresql.log"
        self.data.mkdir(mode=0o700)
        if self.identity:
            account = pwd.getpwnam("postgres")
            os.chown(self.data, account.pw_uid, account.pw_gid)
        command = [f"{self.bin}/initdb", "-D", self.data, "-U", "bench", "-A", "trust", "-E", "UTF8"]
        try:
            run([*command, "--locale=C", "--no-sync"], cwd="/", **self.identity)
        except Failed as why:
            raise Skipped(f"its data directory cannot be made: {why}") from why

    def movements(self, clients, skus, seconds=3):
        return lambda: self.sample("movement.sql", "movement", clients, skus, seconds)

    def reservations(self, clients, seconds=3):
        return lambda: self.sample("reserve.sql", "reservation", clients, 10_000, seconds)

    def sample(self, script, table, clients, skus, seconds):
        port = free_port()
        there = ["-h", "127.0.0.1", "-p", port, "-U", "bench"]

        def psql(*command):
            begin = [f"{self.bin}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *there]
            return run([*begin, "-d", "postgres", *command]).strip()

        def ready():
            try:
                return run([f"{self.bin}/pg_isready", *there])
            except Failed:
                return None

        command = [f"{self.bin}/postgres", "-D", self.data, "-p", port]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        for name, value in {**DURABLE, **KIND}.items():
            command += ["-c", f"{name}={value}"]
        with server(command, self.log, ready, signal.SIGINT, cwd="/", **self.identity):
            for name, value in DURABLE.items():
                if (found := psql("-c", f"SHOW {name}")) != value:
                    raise Failed(f"{name} is {found}, not {value}")
            psql("-f", f"{SCRIPTS}/schema.sql")
            with scratch() as notes:
                bench = [f"{self.bin}/pgbench", *there, "-n", "-M", "prepared", "-c", clients]
                bench += ["-T", seconds, "-D", f"skus={skus}", "-f", f"{SCRIPTS}/{script}"]
                bench += ["-l", "--log-prefix", notes / "times", "postgres"]
                said, around = self.probe.beside(lambda: run(bench))
                # A line for each transaction; its third word is how long it took, in microseconds.
                lines = "".join(path.read_text() for path in notes.iterdir()).splitlines()
            times = sorted(int(line.split()[2]) for line in lines)
            processed = int(re.search(r"transactions actually processed: (\d+)", said)[1])
            written = int(psql("-c", f"SELECT count(*) FROM {table}"))
            if written != processed:
                raise Failed(f"{processed} were acknowledged and {written} are in {table}")
        figures = {
            "rate": float(re.search(r"tps = ([\d.]+)", said)[1]),
            "p50_us": percentile(times, 500),
            "p99_us": percentile(times, 990),
            "p99_9_us": percentile(times, 999),
            "count": processed,
        }
        return figures, around
