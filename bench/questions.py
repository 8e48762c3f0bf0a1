"""What is asked, of whom, and which figure is compared. A sample takes two to five seconds on a quick disk."""

import dataclasses
import typing


@dataclasses.dataclass
class Contestant:
    label: str
    sample: typing.Callable  # takes one sample: its figures by name, and what the machine was like


@dataclasses.dataclass
class Line:
    """Another line in a question's table: a figure out of onhand's own samples."""

    label: str
    figure: str
    compared: bool = False


@dataclasses.dataclass
class Question:
    name: str
    title: str
    figure: str  # the one that is compared
    contestants: list  # onhand first
    lines: list = dataclasses.field(default_factory=list)
    once: bool = False  # in the last round alone, where a sample takes long


def beside(us, *peers):
    """onhand and those of the peers that could be had: each with how it does it, and its sample."""
    return [us, *(Contestant(f"{peer.name}, {how}", sample(peer)) for peer, how, sample in peers if peer)]


def questions(ours, postgresql, redis, retail):
    floor = [Line("floor: `GET /livez` + one fdatasync", "floor_p50_us", compared=True)]
    log = [
        Line("bytes of log for each fact", "bytes"),
        Line("restart with a snapshot, s", "restart_snapshot_s"),
        Line("restart from the log alone, s", "restart_log_s"),
    ]
    facts = Contestant("onhand `facts`: NDJSON, 1 connection", ours.bench("facts", 1_000_000))
    asked = [
        Question(
            "single",
            "One command a request, 64 connections, 10,000 SKUs: commands/s, fsync",
            "rate",
            beside(
                Contestant("onhand `single`", ours.bench("single", 100_000)),
                (postgresql, "UPDATE + INSERT", lambda peer: peer.movements(64, skus=10_000)),
                (redis, "Lua deduct + XADD", lambda peer: peer.deductions(64, 1, 150_000)),
            ),
        ),
        Question(
            "single-hot",
            "The same on one SKU: commands/s, fsync",
            "rate",
            beside(
                Contestant("onhand `single --skus 1`", ours.bench("single", 100_000, skus=1)),
                (postgresql, "UPDATE + INSERT, one hot row", lambda peer: peer.movements(64, skus=1)),
                (redis, "Lua deduct + XADD", lambda peer: peer.deductions(64, 1, 150_000, skus=1)),
            ),
        ),
        Question(
            "latency",
            "One command at a time, 1 connection, 10,000 SKUs: p50 in us, less is better, fsync",
            "p50_us",
            beside(
                Contestant("onhand `latency`", ours.bench("latency", 5_000)),
                (postgresql, "UPDATE + INSERT", lambda peer: peer.movements(1, skus=10_000)),
                (redis, "Lua deduct + XADD", lambda peer: peer.deductions(1, 1, 10_000)),
            ),
            floor,
        ),
        Question(
            "reserve",
            "Reservations of two lines, one at a time, 1 connection: p50 in us, less is better, fsync",
            "p50_us",
            beside(
                Contestant("onhand `reserve`", ours.bench("reserve", 4_000)),
                (postgresql, "two conditional UPDATEs + 3 rows", lambda peer: peer.reservations(1)),
            ),
            floor,
        ),
        Question(
            "reserve-bulk",
            "Reservations of two lines, many at once: reservations/s, fsync",
            "rate",
            beside(
                Contestant("onhand `reserve-bulk`: NDJSON, 1 connection", ours.bench("reserve-bulk", 50_000)),
                (postgresql, "one at a time on 64 connections", lambda peer: peer.reservations(64)),
            ),
        ),
        Question(
            "facts",
            "Bulk, 10,000 SKUs: commands/s, fsync",
            "rate",
            beside(
                facts,
                (redis, "64 connections, pipeline 32", lambda peer: peer.deductions(64, 32, 500_000)),
            ),
        ),
        Question(
            "hot",
            "Bulk on one SKU, beside our own bulk over 10,000: commands/s, fsync",
            "rate",
            [Contestant("onhand `hot`: NDJSON, 1 connection", ours.bench("hot", 1_000_000)), facts],
        ),
        Question(
            "no-http",
            "Without HTTP, example `facts`, 2 M facts over 10,000 SKUs: facts/s, fsync",
            "rate",
            [Contestant("onhand, packs straight into a node", ours.without_http(2_000_000))],
            log,
        ),
        Question(
            "no-http-10m",
            "The same with 10 M facts, one sample: facts/s, fsync",
            "rate",
            [Contestant("onhand, packs straight into a node", ours.without_http(10_000_000))],
            log,
            once=True,
        ),
    ]
    if retail:
        asked.append(
            Question(
                "import",
                "`onhand import` of online-retail: lines/s, fsync",
                "rate",
                [Contestant("onhand `import`", ours.import_lines(retail))],
            )
        )
    return asked
