"""The model card of a checkpoint or an export: README.md, as the Hugging Face hub shows it.

Its content comes from the run's run.json, from its scores and from the folder itself. Of a base
model that is a local path, the card shows only the last parts of the path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from omni_rlvr.folders import CARD
from omni_rlvr.models.adapters.adapter_checkpoint import is_adapter_checkpoint
from omni_rlvr.models.families import COMPOSED
from omni_rlvr.models.loading.config_file import CONFIG
from omni_rlvr.models.loading.hub import is_hub_id
from omni_rlvr.models.policy import Policy
from omni_rlvr.pointers import CHECKPOINT
from omni_rlvr.record import find_record, read_json

_TEMPLATE = Path(__file__).with_name("model_card.md")
_SCORES = {"war": "WAR", "uar": "UAR"}


def write_card(
    folder: Path, policy: Policy, run: Path | None, *, step: int | None, path: str
) -> None:
    """Write the card of a folder that holds a model.

    Args:
        folder: The checkpoint or export; its other files are there.
        policy: The policy that was written there.
        run: The folder of the run that trained it; None for a model that no run trained.
        step: The number of steps it was trained for; None if that is not known.
        path: The folder, or the name on the hub, from which a reader loads it.
    """
    record = None if run is None else find_record(run)
    config = None if record is None else record["config"]
    scores = {} if run is None or config is None else _scores_of(run)
    dataset = "" if config is None else config["dataset"]["name"]
    kind = f"{'video' if 'video' in policy.towers() else 'audio'}-text-to-text"
    results = [
        EvalResult(kind, dataset, split, key, row[key], metric_name=name)
        for split, row in scores.items()
        for key, name in _SCORES.items()
    ]
    file = folder / CONFIG
    model_type = (
        json.loads(file.read_text(encoding="utf-8")).get("model_type") if file.exists() else None
    )
    title = path if config is None else str(config["name"])
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=kind,
        tags=["omni-rlvr"],
        base_model=None if config is None else _hub_base(config),
        model_name=title,
        eval_results=results or None,
    )
    # autoescape stays off: the result is Markdown, not HTML
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(_TEMPLATE.name).render(
        metadata=metadata.to_yaml(),
        title=title,
        step=step,
        adapters=is_adapter_checkpoint(folder),
        facts={} if record is None else _facts(record),
        scores=scores,
        path=path,
        opens=model_type == policy.config.model_type,
        registers=model_type == COMPOSED,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """List what run.json says of a training run, as Markdown."""
    config = record["config"]
    stage, dataset = config["stage"], config["dataset"]
    samples = "num_generations" in stage
    facts = {
        "base": _base(config["model"]),
        "data set": f"{dataset['name']}, split {dataset['train_split']}",
        "stage": "supervised fine-tuning on the annotated answers",
    }
    if samples:
        terms = config["reward"]["terms"]
        weights = config["reward"]["weights"]
        facts["stage"] = (
            f"policy gradient on {stage['num_generations']} sampled completions per prompt "
            f"(loss_type={stage['loss_type']}, beta={stage['beta']})"
        )
        facts["reward"] = ", ".join(f"{weights[name]} x {name}" for name in terms)
    trained = [
        f"{row['part']} ({row['num_trained']:,})"
        for row in record.get("trainable", ())
        if row["num_trained"]
    ]
    facts["trained weights"] = ", ".join(trained)
    facts["seed"] = str(config["seed"])
    versions = record["versions"]
    facts["versions"] = ", ".join(
        f"{name} {versions[name]}" for name in ("omni-rlvr", "torch", "transformers")
    )
    return facts


def _base(model: Mapping[str, Any]) -> str:
    """Name the model that training started from, without its full local path."""
    if (path := model.get("path")) is None:
        return "joined from parts"
    if is_hub_id(path):
        return f"[{path}](https://huggingface.co/{path})"
    parts = Path(path).parts
    return "/".join(parts[-3:] if parts[-1] == CHECKPOINT else parts[-1:])


def _hub_base(config: Mapping[str, Any]) -> str | None:
    """Return the hub id of the base model, or None if it is not on the hub."""
    path = config["model"].get("path")
    return path if path is not None and is_hub_id(path) else None


def _scores_of(run: Path) -> dict[str, dict[str, Any]]:
    """Read the scores that a training run ended with, split by split."""
    files = sorted(run.glob("*/metrics.json"))
    scores = {file.parent.name: read_json(file) for file in files}
    return {split: row for split, row in scores.items() if {*_SCORES} <= {*row}}
