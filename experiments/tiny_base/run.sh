#!/usr/bin/env bash
# Makes the base weights anew (about half an hour on two cores): bash experiments/tiny_base/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
BASE=src/omni_rlvr/models/tiny_base
"$BIN/python" experiments/tiny_base/pretrain.py --data data/synthetic --out "$BASE"
"$BIN/python" experiments/tiny_base/measure.py --data data/synthetic --base "$BASE"
