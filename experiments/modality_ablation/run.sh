#!/usr/bin/env bash
# The sweep over modalities; then its table and figure:
# bash experiments/modality_ablation/run.sh
# OUT is where runs go and are found again; ARGS are more overrides, e.g.
# ARGS="hydra/launcher=joblib hydra.launcher.n_jobs=2". COLLECT_ONLY=1 runs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin} OUT=${OUT:-outputs} STEPS=${STEPS:-75}
sweep() {
  "$BIN/omni-rlvr" -m +sweep=modality "stage.max_steps=$STEPS" stage.batch_size=8 callbacks=default \
    "paths.output_root=$OUT" ${ARGS:-} "$@"
}
if [ -z "${COLLECT_ONLY:-}" ]; then
  sweep
fi
"$BIN/python" -m experiments.collect --to experiments/modality_ablation/results.csv \
  --keys modality.name -- "$OUT/modality/sweep"
"$BIN/python" -m experiments.modality_ablation.plot
