#!/usr/bin/env bash
# Opens eight files of a million annotations, each in a process of its own; some minutes and 3 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
python experiments/opening/measure.py "$@"
