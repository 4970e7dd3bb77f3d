#!/usr/bin/env bash
# Makes the base weights anew (about half an hour on two cores): bash experiments/tiny_base/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python experiments/tiny_base/pretrain.py --data data/synthetic --out src/omni_rlvr/models/tiny_base
