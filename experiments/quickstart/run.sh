#!/usr/bin/env bash
# Three seeds of the quickstart, then one table: bash experiments/quickstart/run.sh
# JOBS=2 runs two seeds at a time, one thread each.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-1}
[ "$JOBS" = 1 ] || export OMP_NUM_THREADS=1
printf '%s\n' $SEEDS | xargs -P "$JOBS" -I{} \
  "$BIN/omni-rlvr" +experiment=quickstart seed={} hydra.run.dir=outputs/quickstart/seed{}
"$BIN/python" -m experiments.quickstart.collect outputs/quickstart
