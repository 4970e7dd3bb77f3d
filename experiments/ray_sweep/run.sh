#!/usr/bin/env bash
# Eight cold starts on one Ray worker and on two, on an idle machine with two cores: half an hour or so.
# PYTHONPATH must lead to the extra ray where it is apart, as in .venv/sweep of make test.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
PYTHONPATH="${BIN%/bin}/sweep${PYTHONPATH:+:$PYTHONPATH}" "$BIN/python" experiments/ray_sweep/measure.py "$@"
