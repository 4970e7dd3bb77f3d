"""Measure the base weights: accuracy per cue of the captions on held-out clips -> results.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from align import caption_accuracy
from pretrain import load_split

from omni_rlvr.models.loading.load import load_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the synthetic clips")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    args = parser.parse_args()
    model = load_policy(str(args.base), "float32", None)
    results: dict = {"weights": sum(p.numel() for p in model.parameters()), "captions": {}}
    for split in ("test", "ood"):
        data = load_split(model.processor, args.data, split, 500)
        results["captions"][split] = {
            kept: caption_accuracy(model, data, kept) for kept in ("video", "audio", "video_audio")
        }
    (Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
