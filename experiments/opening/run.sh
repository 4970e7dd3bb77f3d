#!/usr/bin/env bash
# Opens five files of a million annotations, each in a process of its own; about two minutes and 2 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
python experiments/opening/measure.py "$@"
