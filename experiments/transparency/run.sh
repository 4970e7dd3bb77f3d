#!/usr/bin/env bash
# Cold start, SFT on labels and RLVR, watched by a probe, then attributed; then table and figure:
# bash experiments/transparency/run.sh
# Time: about 10 minutes a seed on two idle cores (estimated from the quickstart's 7 and the probes). A step that has
# finished is skipped, so that the same command goes on.
# OUT is where runs go and are found again, SEEDS which seeds; ARGS are more overrides of every step.
# COLLECT_ONLY=1 runs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin} OUT=${OUT:-outputs} SEEDS=${SEEDS:-0 1 2} STEPS=${STEPS:-75} CLIPS=${CLIPS:-100}
HOME_OF=$OUT/transparency

# step SEED NAME OVERRIDES: one run, unless it is there
step() {
  local folder=$HOME_OF/seed$1/$2 seed=$1
  grep -qs '"status": "finished"' "$folder/run.json" && return
  "$BIN/omni-rlvr" "seed=$seed" "hydra.run.dir=$folder" "paths.output_root=$OUT" "${@:3}" ${ARGS:-}
}
# watched SEED NAME EVERY OVERRIDES: a training run with a probe on test clips, not on those it trains on
watched() {
  step "$1" "$2" callbacks=probe "callbacks.probe.num_clips=$CLIPS" "callbacks.probe.every_n_steps=$3" \
    'callbacks.probe.reader=${dataset.splits.test}' "${@:4}"
}

if [ -z "${COLLECT_ONLY:-}" ]; then
  for seed in $SEEDS; do
    at=$HOME_OF/seed$seed
    watched "$seed" cold_start 40 +experiment=cold_start
    watched "$seed" sft_labels 50 +experiment=sft_labels
    watched "$seed" rlvr 10 +experiment=rlvr "model.path=$at/cold_start/checkpoint" \
      "stage.max_steps=$STEPS" stage.batch_size=8
    attribute() { # MODEL OVERRIDES
      step "$seed" "attribute_$1" +experiment=attribute "model.path=$at/$1/checkpoint" task.num_chosen=0 "${@:2}"
    }
    attribute cold_start task.lead=own_reasoning
    attribute rlvr task.lead=own_reasoning
    attribute sft_labels # answers without reasoning
  done
fi
"$BIN/python" -m experiments.transparency.collect "$HOME_OF"
"$BIN/python" -m experiments.transparency.plot
