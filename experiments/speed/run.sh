#!/usr/bin/env bash
# The whole study, on a machine that is otherwise idle: bash experiments/speed/run.sh
# One sweep each over P, C, G and model size through the cell P=970 C=64 G=8, there with beta=0 too; FULL=1 takes the
# whole grid of P x C x G. About 25 minutes on two cores without FULL, by the seconds of single cells. Given again, it goes on where it stopped: a cell whose file is there is not run again.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
REPEATS=${REPEATS:-2}
OUT=${OUT:-outputs/speed}
EXTRA=${EXTRA:-} # e.g. "--clock cpu --threads 1" on a busy machine; cells are kept apart by it
OUT=$OUT/$(echo "repeats $REPEATS $EXTRA" | tr -cs 'a-z0-9\n' _)
mkdir -p "$OUT"
NAMES=() COMMANDS=() COSTS=() # a cell: its file, its command, and its cost in units of the cell in the middle

plan() { # name, cost, command...
  NAMES+=("$1"); COSTS+=("$2"); shift 2; COMMANDS+=("$*")
}
cell() { # P C G hidden layers [more]
  local name="grpo_P$1_C$2_G$3_H$4_L$5" more="${*:6}"
  # tokens of plain rows, times weights of a layer, times layers
  local cost=$((100 * ($1 + $2) * $3 * $4 * $4 * $5 / ((970 + 64) * 8 * 256 * 256 * 6) + 1))
  plan "$name${more//[^a-z0-9.]/}" "$cost" experiments/speed/compare.py $EXTRA --prompt "$1" --completion "$2" \
    --generations "$3" --prompts 2 --hidden "$4" --layers "$5" --repeats "$REPEATS" $more
}

cell 970 64 8 256 6
cell 970 64 8 256 6 --beta 0
if [ "${FULL:-0}" = 1 ]; then
  for p in 128 512 970 2000; do for c in 32 64 180; do for g in 2 4 8 16; do
    [ "$p $c $g" = "970 64 8" ] || cell $p $c $g 256 6
  done; done; done
else
  for p in 128 512 2000; do cell $p 64 8 256 6; done
  for c in 32 180; do cell 970 $c 8 256 6; done
  for g in 2 4 16; do cell 970 64 $g 256 6; done
fi
cell 970 64 8 128 4
cell 970 64 8 384 6
for g in 4 16; do # peak memory, alone in a process
  plan memory_G$g 15 experiments/speed/compare.py $EXTRA --contestants ours --prompt 970 --completion 64 \
    --generations $g --prompts 2 --hidden 256 --layers 6 --repeats 1
done
plan sft 30 experiments/speed/sft.py $EXTRA --samples 16 --prompt 970 --completion 180 --repeats "$REPEATS"

left=0
for i in "${!NAMES[@]}"; do [ -s "$OUT/${NAMES[i]}.json" ] || left=$((left + COSTS[i])); done
done_cost=0 started=$SECONDS
for i in "${!NAMES[@]}"; do
  file=$OUT/${NAMES[i]}.json
  if [ -s "$file" ]; then echo "[$((i + 1))/${#NAMES[@]}] ${NAMES[i]}: there"; continue; fi
  guess=""
  if [ $done_cost -gt 0 ]; then guess=", about $(((SECONDS - started) * left / done_cost / 60 + 1)) minutes to go"; fi
  echo "[$((i + 1))/${#NAMES[@]}] ${NAMES[i]}$guess"
  "$PYTHON" ${COMMANDS[i]} --json "$file.partial" > "$file.log" 2>&1 || { tail -5 "$file.log"; exit 1; }
  mv "$file.partial" "$file"
  done_cost=$((done_cost + COSTS[i])) left=$((left - COSTS[i]))
done
"$PYTHON" experiments/speed/plot.py --results "$OUT" ${PLOT:-}
