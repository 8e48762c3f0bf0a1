#!/usr/bin/env bash
# The figures of docs/benchmarks.md, measured here: client and node on the same cores, acknowledged after
# fdatasync, a disk probe beside each sample. Takes about three minutes. ONHAND_DIR chooses the disk,
# ONHAND_REPEAT the samples of each workload (medians are printed).
set -euo pipefail
cd "$(dirname "$0")/.."
onhand=$PWD/target/release/onhand
dir=$(mktemp -d "${ONHAND_DIR:-/tmp}/onhand-bench.XXXXXX")
repeat=${ONHAND_REPEAT:-5}
data=${ONHAND_TEST_DATA:-../shared/data}
node=0
stop() { if [ "$node" != 0 ]; then kill "$node" 2>/dev/null && wait "$node" || true; node=0; fi; }
trap 'stop; rm -rf "$dir"' EXIT

serve() { # a node on the directory $1; sets ONHAND_URL
    "$onhand" serve --data "$1" --listen 127.0.0.1:0 >"$dir/out" 2>"$dir/err" &
    node=$!
    for _ in $(seq 600); do
        ONHAND_URL=$(sed -n 's/^listening on //p' "$dir/out")
        [ -z "$ONHAND_URL" ] || { export ONHAND_URL; return; }
        sleep 0.05
    done
    cat "$dir/err" >&2
    exit 1
}

echo "== $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit'), $(uname -sr), $(nproc) cores"
for workload in facts hot single latency reserve reserve-bulk; do
    serve "$dir/$workload"
    "$onhand" bench "$workload" --repeat "$repeat" --probe-dir "$dir" -o table | grep -E ' on | median'
    stop
    rm -rf "${dir:?}/$workload"
done

if [ -d "$data/online-retail" ]; then
    for n in $(seq "$repeat"); do
        serve "$dir/import-$n"
        "$onhand" import "$data"/online-retail/*.csv.gz --format online-retail --quarantine "$dir/kept.csv" \
            -o json 2>/dev/null | grep -o '"lines_per_s":[0-9]*' | sed 's/^/online-retail import: /'
        stop
        rm -rf "${dir:?}/import-$n"
    done
else
    echo "online-retail import: skipped, $data is not there"
fi

echo "== without HTTP: rate, bytes of log for each fact, restart with and without snapshots"
cargo run --release --locked -q -p onhand-flows --example facts -- "$dir/facts" 10000000 10000
