#!/usr/bin/env python3
"""Local Apache Kafka brokers, to try out onhand on Kafka and to test it.

    brokers.py run DIR [--brokers 1|3]     start, wait until they answer, stop on Ctrl-C
        [--owned]                          also stop when standard input ends, and remove DIR: for
                                           a test, whose end closes it however it comes
    brokers.py start DIR [--brokers 1|3]   the same, but return and leave them running
        [--jvm kafka]                      with the memory and the collector of Kafka's own start
                                           script (1 GB, G1) instead of a small heap: for measuring
    brokers.py node DIR N                  start node N again on the data and ports it had
    brokers.py stop DIR                    stop all nodes of DIR
    brokers.py with [--brokers 1|3] -- COMMAND...
                                           run a command with ONHAND_TEST_KAFKA naming fresh
                                           brokers, which end with it
    brokers.py jars                        fetch the jars and print the folder they are in

DIR receives one folder of data and one log file per node, and brokers.json:

    {"bootstrap": "127.0.0.1:1,...", "jars": DIR, "jvm": "small", "nodes": [{"id": 1, "port": 1, "pid": 1, ...}]}

A test kills a node by the pid found there and brings it back with `node`. The jars come through
Maven once and stay in $ONHAND_KAFKA_JARS, else $XDG_CACHE_HOME/onhand/kafka-4.2.0, else
~/.cache/onhand/kafka-4.2.0. Needs Java 17 and Maven on the PATH; nothing but Python's own library.

Settings that differ from Kafka's defaults are for a quick start on a small machine, not for use
with data that matters: see `properties`.
"""

import argparse
import fcntl
import json
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

VERSION = "4.2.0"
# What a test broker needs is far less; the JVM takes what it is allowed.
HEAP = os.environ.get("ONHAND_KAFKA_HEAP", "320m")
# The serial collector: a broker starts sooner and keeps fewer threads, and as fast on a small machine.
SMALL = [f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
JVMS = {
    "small": SMALL,
    # What lives briefly is compiled once and not again: three brokers take 7 s of processor time to their start
    # instead of 11.
    "brief": [*SMALL, "-XX:TieredStopAtLevel=1"],
    # bin/kafka-server-start.sh and bin/kafka-run-class.sh of Kafka 4.2.0.
    "kafka": [
        *("-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
        *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    ],
}
# Three brokers on two busy cores took 20 s; above this something is wrong.
START_SECONDS = 90
STOP_SECONDS = 20

POM = f"""<project><modelVersion>4.0.0</modelVersion>
 <groupId>dev.local</groupId><artifactId>kafka-boot</artifactId><version>1</version>
 <packaging>pom</packaging><dependencies>
  <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
  <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-streams</artifactId><version>{VERSION}</version></dependency>
  <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
 </dependencies></project>
"""


def fail(message):
    """Ends the program with one sentence that says the next thing to try."""
    print(f"brokers.py: {message}", file=sys.stderr)
    sys.exit(1)


def need(program, package):
    if shutil.which(program) is None:
        fail(
            f"{program} is not on the PATH; install it (Debian and Ubuntu: apt-get install "
            f"{package}), or set KAFKA_BOOTSTRAP to the brokers of a cluster that already runs"
        )


def jars():
    """The folder of the jars; fetched on the first call, under a lock, whole or not at all."""
    need("java", "openjdk-17-jre-headless")
    named = os.environ.get("ONHAND_KAFKA_JARS")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    home = pathlib.Path(named) if named else pathlib.Path(cache) / "onhand" / f"kafka-{VERSION}"
    if home.is_dir() and any(home.glob("*.jar")):
        return home
    need("mvn", "maven")
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / f".{home.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if home.is_dir():
            return home
        print(f"fetching Kafka {VERSION} with Maven into {home} (about 130 MB, once)", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=home.parent) as work:
            (pathlib.Path(work) / "pom.xml").write_text(POM, encoding="utf-8")
            command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib", "-DincludeScope=runtime"]
            if subprocess.run(command, cwd=work, stdout=sys.stderr, check=False).returncode != 0:
                fail("Maven could not fetch Kafka, its own words are above; check the network and Maven's settings")
            os.rename(pathlib.Path(work) / "lib", home)
    return home


def java(lib, *arguments, jvm):
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", *JVMS[jvm], quiet, "-cp", f"{lib}/*", *arguments]


def free_ports(count):
    """Ports that nobody has now, and that the system gives to nobody: those it hands out to outgoing
    connections begin at 32768, and a client that knocks at a stopped node's port could get that very
    port for itself, which the node then cannot take back."""
    ports = []
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def properties(node, nodes, data):
    """A node's settings. Safety as in production where three nodes allow it; the rest is speed."""
    copies = len(nodes)
    voters = ",".join(f"{each['id']}@127.0.0.1:{each['controller_port']}" for each in nodes)
    return "\n".join(
        [
            "process.roles=broker,controller",
            f"node.id={node['id']}",
            f"controller.quorum.voters={voters}",
            f"listeners=PLAINTEXT://127.0.0.1:{node['port']},CONTROLLER://127.0.0.1:{node['controller_port']}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{node['port']}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            f"log.dirs={data}",
            f"default.replication.factor={copies}",
            f"offsets.topic.replication.factor={copies}",
            f"transaction.state.log.replication.factor={copies}",
            f"min.insync.replicas={min(copies, 2)}",
            f"transaction.state.log.min.isr={min(copies, 2)}",
            "auto.create.topics.enable=false",
            # Fewer partitions to create at the first use; 50 each are for large clusters.
            "offsets.topic.num.partitions=4",
            "transaction.state.log.num.partitions=4",
            # No wait for more members: a group of one is the common case here.
            "group.initial.rebalance.delay.ms=0",
            # A dead node is noticed in 3 s instead of 9, an expired transaction in 1 s instead of 10.
            "broker.session.timeout.ms=3000",
            "broker.heartbeat.interval.ms=500",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
            "replica.lag.time.max.ms=5000",
            "controlled.shutdown.enable=true",
            "log.cleaner.dedupe.buffer.size=8388608",
            # Preallocated index files of 10 MB per segment are sparse, but mapping them is not free.
            "log.index.size.max.bytes=1048576",
            "",
        ]
    )


def write_state(home, state):
    partial = home / "brokers.json.partial"
    partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, home / "brokers.json")


def read_state(home):
    try:
        return json.loads((home / "brokers.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        fail(f"{home} has no brokers.json; start brokers there first: brokers.py start {home}")


def alive(node):
    """Whether the process is still that node: the pid may belong to somebody else by now."""
    if sys.platform != "linux":
        try:
            os.kill(node["pid"], 0)
        except OSError:
            return False
        return True
    try:
        state = pathlib.Path(f"/proc/{node['pid']}/stat").read_text(encoding="utf-8", errors="replace")
        command = pathlib.Path(f"/proc/{node['pid']}/cmdline").read_bytes()
    except OSError:
        return False
    if state.rpartition(")")[2].split()[0] in "ZX":
        return False
    # Java's launcher starts itself again, and has no command line in that moment.
    return not command or node["properties"].encode() in command


def launch(home, state, node):
    with open(home / f"node-{node['id']}.log", "ab") as log:
        process = subprocess.Popen(
            java(state["jars"], "kafka.Kafka", node["properties"], jvm=state["jvm"]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C in the terminal is for this program, which then stops the nodes in order.
            start_new_session=True,
        )
    node["pid"] = process.pid
    write_state(home, state)


def answers(node):
    try:
        with socket.create_connection(("127.0.0.1", node["port"]), timeout=1) as link:
            # ApiVersions v0, correlation 1, no client id: what any client asks first.
            link.sendall(bytes.fromhex("0000000a 0012 0000 00000001 ffff".replace(" ", "")))
            link.settimeout(2)
            return len(link.recv(4)) == 4
    except OSError:
        return False


def wait(home, nodes):
    until = time.monotonic() + START_SECONDS
    for node in nodes:
        while not answers(node):
            if not alive(node):
                tail(home, node)
                fail(f"node {node['id']} ended while it started; its words are above")
            if time.monotonic() > until:
                tail(home, node)
                fail(f"node {node['id']} did not answer within {START_SECONDS} s; its log is in {home}")
            time.sleep(0.05)


def tail(home, node):
    text = (home / f"node-{node['id']}.log").read_text(encoding="utf-8", errors="replace")
    print("\n".join(text.splitlines()[-15:]), file=sys.stderr)


def start(home, count, jvm="small"):
    lib = jars()
    home.mkdir(parents=True, exist_ok=True)
    if (home / "brokers.json").exists():
        state = read_state(home)
        for node in state["nodes"]:
            if not alive(node):
                launch(home, state, node)
        wait(home, state["nodes"])
        return state
    ports = free_ports(2 * count)
    nodes = [{"id": n + 1, "port": ports[2 * n], "controller_port": ports[2 * n + 1], "pid": 0} for n in range(count)]
    state = {
        "bootstrap": ",".join(f"127.0.0.1:{node['port']}" for node in nodes),
        "jars": str(lib),
        "jvm": jvm,
        "nodes": nodes,
    }
    cluster = "b25oYW5kLWthZmthLXRlcw"
    formats = []
    for node in nodes:
        data = home / f"node-{node['id']}"
        path = home / f"node-{node['id']}.properties"
        node["properties"] = str(path)
        path.write_text(properties(node, nodes, data), encoding="utf-8")
        command = java(lib, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(path), jvm="brief")
        formats.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for each in formats:
        words, _ = each.communicate()
        if each.returncode != 0:
            fail(f"a data folder could not be formatted: {words.decode(errors='replace')}")
    for node in nodes:
        launch(home, state, node)
    wait(home, nodes)
    return state


def stop(home, patience=STOP_SECONDS):
    """Asks every node to end, which hands its leaderships over, and kills what does not."""
    nodes = [node for node in read_state(home)["nodes"] if alive(node)]
    for node in nodes:
        os.kill(node["pid"], signal.SIGTERM)
    until = time.monotonic() + patience
    for node in nodes:
        while alive(node):
            if time.monotonic() > until:
                os.kill(node["pid"], signal.SIGKILL)
            reap(node)
            time.sleep(0.05)


def reap(node):
    """Collects a node that this very program started, so that it does not stay as a zombie."""
    try:
        os.waitpid(node["pid"], os.WNOHANG)
    except ChildProcessError:
        pass


def report(state):
    for node in state["nodes"]:
        print(f"node {node['id']}: 127.0.0.1:{node['port']}, pid {node['pid']}")
    print(f"bootstrap: {state['bootstrap']}", flush=True)


def run(home, count, owned):
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        state = start(home, count, "brief" if owned else "small")
        report(state)
        trial = " --kafka-allow-unsafe" if len(state["nodes"]) == 1 else ""
        print(f"try: onhand serve --data /tmp/onhand-kafka --kafka {state['bootstrap']}{trial}")
        print("running; Ctrl-C stops them", flush=True)
        while True:
            # Standard input of a test never has anything to read but its end.
            ended = owned and select.select([sys.stdin], [], [], 0.2)[0] and not sys.stdin.buffer.read1(1)
            if ended:
                break
            if not owned:
                time.sleep(1)
            for node in read_state(home)["nodes"]:
                reap(node)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        if (home / "brokers.json").exists():
            stop(home, STOP_SECONDS if not owned else 0)
        if owned:
            shutil.rmtree(home, ignore_errors=True)


def with_brokers(count, command):
    """Runs the command beside fresh brokers; its exit code is ours."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="onhand-kafka-"))
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code = 1
    try:
        state = start(home, count, "brief")
        report(state)
        told = {**os.environ, "ONHAND_TEST_KAFKA": state["bootstrap"], "ONHAND_TEST_KAFKA_DIR": str(home)}
        code = subprocess.run(command, env=told, check=False).returncode
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        if (home / "brokers.json").exists():
            stop(home, 0)
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(code)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "start"):
        command = commands.add_parser(name)
        command.add_argument("dir", type=pathlib.Path)
        command.add_argument("--brokers", type=int, choices=(1, 3), default=1)
        if name == "run":
            command.add_argument("--owned", action="store_true")
        else:
            command.add_argument("--jvm", choices=("small", "kafka"), default="small")
    node = commands.add_parser("node")
    node.add_argument("dir", type=pathlib.Path)
    node.add_argument("id", type=int)
    commands.add_parser("stop").add_argument("dir", type=pathlib.Path)
    beside = commands.add_parser("with")
    beside.add_argument("--brokers", type=int, choices=(1, 3), default=3)
    beside.add_argument("program", nargs="+")
    commands.add_parser("jars")
    told = parser.parse_args()
    if told.command == "jars":
        print(jars())
        return
    if told.command == "with":
        with_brokers(told.brokers, told.program)
    home = told.dir.resolve()
    if told.command == "run":
        run(home, told.brokers, told.owned)
    elif told.command == "start":
        report(start(home, told.brokers, told.jvm))
    elif told.command == "stop":
        stop(home)
    elif told.command == "node":
        state = read_state(home)
        node = next((each for each in state["nodes"] if each["id"] == told.id), None)
        if node is None:
            fail(f"there is no node {told.id} in {home}")
        # One that was killed a moment ago takes that long to be gone.
        until = time.monotonic() + START_SECONDS
        while alive(node) and not answers(node) and time.monotonic() < until:
            time.sleep(0.05)
        if not alive(node):
            launch(home, state, node)
        wait(home, [node])
        print(node["pid"])


if __name__ == "__main__":
    main()
