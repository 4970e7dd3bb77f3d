#!/usr/bin/env bash
# Three seeds of the quickstart, then one table: bash experiments/quickstart/run.sh  (about half an hour on two cores)
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
for seed in ${SEEDS:-0 1 2}; do
  "$BIN/omni-rlvr" +experiment=quickstart seed="$seed"
  cp "$(readlink -f outputs/quickstart/latest)/summary.json" "experiments/quickstart/summary_seed$seed.json"
done
"$BIN/python" experiments/quickstart/collect.py
