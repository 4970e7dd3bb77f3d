#!/usr/bin/env bash
# Compares two checkouts on a machine that is otherwise idle: bash experiments/structure/run.sh OLD NEW
# About 20 minutes on two cores. WORK is where clips and runs go; it must not be there yet.
set -euo pipefail
OLD=$(realpath "$1") NEW=$(realpath "$2")
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
WORK=${WORK:-outputs/structure}
[ ! -e "$WORK" ] || { echo "$WORK is there already; remove it or set WORK"; exit 1; }
"$PYTHON" experiments/structure/count.py "$OLD" --label before
"$PYTHON" experiments/structure/count.py "$NEW" --label after
same=0
"$PYTHON" experiments/structure/same.py "$OLD" "$NEW" --work "$WORK" ${SAME:-} || same=$?
"$PYTHON" experiments/structure/speed.py "$OLD" "$NEW" --work "$WORK" ${SPEED:-}
exit $same
