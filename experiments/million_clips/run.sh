#!/usr/bin/env bash
# Writes a manifest of a million rows (300 MB) and measures its start, order and resume; some minutes. run.sh FOLDER keeps it.
# The rows "before" are those of the commit that README.md names, measured there by the same script on 100,000 rows.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
FOLDER=${1:-$(mktemp -d)}
"$BIN/python" -m experiments.million_clips.measure "$FOLDER" now
"$BIN/python" -m experiments.million_clips.plot
