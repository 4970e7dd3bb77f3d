#!/usr/bin/env bash
# The sweep over loss types, then its table and figure: bash experiments/objectives/run.sh
# FLOOR=1 runs three loss types of the same gradient too, with one update a rollout: what separates them is noise.
# OUT is where runs go and are found again; ARGS are more overrides, e.g.
# ARGS="hydra/launcher=joblib hydra.launcher.n_jobs=2". COLLECT_ONLY=1 runs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin} OUT=${OUT:-outputs} STEPS=${STEPS:-75}
sweep() {
  "$BIN/omni-rlvr" -m +sweep=objective "stage.max_steps=$STEPS" stage.batch_size=8 callbacks=default \
    "paths.output_root=$OUT" ${ARGS:-} "$@"
}
if [ -z "${COLLECT_ONLY:-}" ]; then
  sweep
  [ -z "${FLOOR:-}" ] || sweep name=objective_one_update stage.num_minibatches=1 stage.loss_type=grpo,gspo,sapo
fi
"$BIN/python" -m experiments.collect --to experiments/objectives/results.csv \
  --keys stage.num_minibatches stage.loss_type -- "$OUT"/objective*/sweep
"$BIN/python" -m experiments.objectives.plot
