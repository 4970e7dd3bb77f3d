#!/usr/bin/env bash
# The whole study, on a machine that is otherwise idle: bash experiments/speed/run.sh
# One sweep each over P, C, G and model size through the cell P=970 C=64 G=8; FULL=1 takes the whole grid of P x C x G.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
REPEATS=${REPEATS:-3}
OUT=${OUT:-outputs/speed}
EXTRA=${EXTRA:-} # e.g. "--clock cpu --threads 1" on a busy machine
mkdir -p "$OUT"

cell() { # P C G hidden layers
  "$PYTHON" experiments/speed/compare.py $EXTRA --prompt "$1" --completion "$2" --generations "$3" --prompts 2 \
    --hidden "$4" --layers "$5" --repeats "$REPEATS" --json "$OUT/grpo_P$1_C$2_G$3_H$4_L$5.json"
}

if [ "${FULL:-0}" = 1 ]; then
  for p in 128 512 970 2000; do for c in 32 64 180; do for g in 2 4 8 16; do cell $p $c $g 256 6; done; done; done
else
  for p in 128 512 970 2000; do cell $p 64 8 256 6; done
  for c in 32 180; do cell 970 $c 8 256 6; done
  for g in 2 4 16; do cell 970 64 $g 256 6; done
fi
cell 970 64 8 128 4
cell 970 64 8 512 8

for g in 4 16; do # peak memory, alone in a process
  "$PYTHON" experiments/speed/compare.py $EXTRA --contestants ours --prompt 970 --completion 64 --generations $g --prompts 2 \
    --hidden 256 --layers 6 --repeats 1 --json "$OUT/memory_G$g.json"
done
"$PYTHON" experiments/speed/sft.py $EXTRA --samples 16 --prompt 970 --completion 180 --repeats "$REPEATS" --json "$OUT/sft.json"
"$PYTHON" experiments/speed/plot.py --results "$OUT"
