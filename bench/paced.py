"""A client of a node's HTTP that sends commands at a fixed rate through one stream and times each outcome from
when its command was due."""

import re
import socket
import threading
import time
import urllib.parse

from measure import Failed

PATIENCE = 30
TICK = 0.0005  # commands that came due meanwhile go as one chunk
NUMBER = re.compile(rb'"id":"(\d+)"')


def command(number, skus):
    """As StreamsPeer.java writes them."""
    sku = number * 7_919 % skus
    return b'{"id":"%d","source":"paced","type":"ship","sku":"SKU-%06d","location":"main","quantity":1}\n' % (number, sku)


class Outcomes(threading.Thread):
    """Reads outcomes, and when each came."""

    def __init__(self, connection, count):
        super().__init__(daemon=True)
        self.connection = connection
        self.came = [None] * count
        self.missing = count
        self.head = b""

    def run(self):
        rest = b""
        while self.missing:
            bytes_ = self.connection.recv(1 << 18)
            now = time.perf_counter()
            if not bytes_:
                return
            if not self.head:
                head, found, body = (rest + bytes_).partition(b"\r\n\r\n")
                if not found:
                    rest += bytes_
                    continue
                self.head, rest, bytes_ = head, b"", body
            whole, _, rest = (rest + bytes_).rpartition(b"\n")
            for found in NUMBER.finditer(whole):
                number = int(found[1])
                if self.came[number] is None:
                    self.came[number] = now
                    self.missing -= 1


def paced(url, rate, seconds, skus):
    """The figures of the second half, as StreamsPeer.java's `rate` gives them."""
    address = urllib.parse.urlsplit(url)
    count = rate * seconds
    with socket.create_connection((address.hostname, address.port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST /v1/commands HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/x-ndjson\r\n"
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        outcomes = Outcomes(connection, count)
        outcomes.start()
        began = time.perf_counter()
        sent = 0
        while sent < count:
            due = min(count, int((time.perf_counter() - began) * rate) + 1)
            if due == sent:
                time.sleep(TICK)
                continue
            lines = b"".join(command(number, skus) for number in range(sent, due))
            connection.sendall(b"%x\r\n%b\r\n" % (len(lines), lines))
            sent = due
        connection.sendall(b"0\r\n\r\n")
        outcomes.join(PATIENCE)
    if b" 200 " not in outcomes.head.partition(b"\r\n")[0]:
        raise Failed(f"the stream was answered {outcomes.head[:200]!r}")
    # From when it was due: who falls behind does not hide it.
    judged = [(number, outcomes.came[number]) for number in range(count // 2, count)]
    times = sorted(came - began - number / rate for number, came in judged if came is not None)
    if len(times) < len(judged):
        raise Failed(f"{len(judged) - len(times)} outcomes did not come")

    def at(per_mille):
        return times[max((len(times) * per_mille + 999) // 1000, 1) - 1] * 1e3

    return {"p50_ms": at(500), "p99_ms": at(990), "max_ms": at(1000)}
