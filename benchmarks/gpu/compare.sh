#!/usr/bin/env bash
# A piece of a comparison (benchmarks/compare.py) on a machine that is lent for minutes; the same command continues.
#
#   benchmarks/gpu/compare.sh STUDY DATA [PIECE_SECONDS] [further options of benchmarks/compare.py]
#
# Stops after PIECE_SECONDS (540) at the latest, with a checkpoint. Run folders are in RUNS (runs/gpu), which must be
# there again for the next piece; where OUT is set, they and the collected docs/ are copied into it.
set -uo pipefail
cd "$(dirname "$0")/../.."
if [ $# -lt 2 ]; then
    sed -n '4p' "$0" | cut -c5- >&2
    exit 2
fi
study=$1 data=$2 piece=540
shift 2
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    piece=$1
    shift
fi
runs=${RUNS:-runs/gpu}
timeout --signal=INT --kill-after=40 "$piece" "${PYTHON:-python}" benchmarks/compare.py "$study" "$data" --runs "$runs" "$@"
code=$?
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT/docs" && cp -r "$runs" "$OUT/" && cp -r docs/results docs/pictures "$OUT/docs/"
fi
[ "$code" -eq 124 ] && echo "the piece is over; the same command continues" && exit 0
exit "$code"
