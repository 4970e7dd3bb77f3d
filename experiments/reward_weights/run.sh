#!/usr/bin/env bash
# The sweep over format weights; then its table and figure:
# bash experiments/reward_weights/run.sh
# OUT is where runs go and are found again; ARGS are more overrides, e.g.
# ARGS="hydra/launcher=joblib hydra.launcher.n_jobs=2". COLLECT_ONLY=1 runs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin} OUT=${OUT:-outputs} STEPS=${STEPS:-75}
sweep() {
  "$BIN/omni-rlvr" -m +sweep=reward_weights "stage.max_steps=$STEPS" stage.batch_size=8 callbacks=default \
    "paths.output_root=$OUT" ${ARGS:-} "$@"
}
if [ -z "${COLLECT_ONLY:-}" ]; then
  sweep
fi
"$BIN/python" -m experiments.collect --to experiments/reward_weights/results.csv \
  --keys reward.weights.format -- "$OUT/reward_weights/sweep"
"$BIN/python" -m experiments.reward_weights.plot
