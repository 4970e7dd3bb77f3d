#!/usr/bin/env bash
# Writes a random full-size checkpoint to DIR and loads it: bash experiments/loading/run.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
"$BIN/python" experiments/loading/measure.py make "$1"
for dtype in bfloat16 float32; do
  "$BIN/python" experiments/loading/measure.py load "$1" "$dtype"
done
