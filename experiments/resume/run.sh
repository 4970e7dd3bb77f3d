#!/usr/bin/env bash
# Twenty kills over both stages and both strategies, on two processes: a quarter of an hour or so.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
"$BIN/python" experiments/resume/measure.py "$@"
