#!/usr/bin/env python3
"""Runs several shell commands at once; every line that one says is shown with its name before it.

    tools/at_once.py NAME COMMAND [NAME COMMAND]...

Ends with 0 when all of them did. When one fails the others go on to their end, and the names of those that failed
are said last, with how each ended."""

import subprocess
import sys
import threading
import time


def run(name, command, ends):
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for line in process.stdout:
        print(f"[{name}] {line}", end="" if line.endswith("\n") else "\n", flush=True)
    code = process.wait()
    print(f"[{name}] ended with {code} after {time.monotonic() - began:.0f} s", flush=True)
    ends[name] = code


def main(words):
    if not words or len(words) % 2 == 1:
        sys.exit(__doc__)
    pairs = list(zip(words[::2], words[1::2]))
    ends = {}
    threads = [threading.Thread(target=run, args=(name, command, ends)) for name, command in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [f"{name} ended with {ends.get(name, 'an error')}" for name, _ in pairs if ends.get(name) != 0]
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
