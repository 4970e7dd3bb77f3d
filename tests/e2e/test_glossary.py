"""The glossary names what runs write: every name in the files of small runs, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from omni_rlvr import glossary
from omni_rlvr.record import read_json, read_jsonl

SFT = ("stage=sft", "stage.max_steps=2", "stage.batch_size=3")
GRPO = (
    "stage=grpo",
    "stage.max_steps=1",
    "stage.batch_size=2",
    "stage.num_generations=2",
    "stage.sampling.max_completion_length=8",
)
PROBE = (
    "callbacks=probe",
    "callbacks.probe.num_clips=2",
    "callbacks.probe.max_completion_length=8",
)
TRAININGS = (
    (*SFT, *PROBE, "callbacks.probe.reader=${dataset.splits.test}"),
    (*GRPO, "stage.max_resample_times=1", "task.evaluate_after.splits=[test]",
     "task.evaluate_after.max_completion_length=8", "task.evaluate_after.num_resamples=20"),
    (*GRPO, "stage.loss_type=cispo", "stage.contrast_modality=video", "stage.contrast_coef=0.1"),
)  # fmt: skip
UNSEEN = {"modality/agreement", "modality/hallucination"}
"""Names that a random policy cannot earn, since it says nothing that could be judged."""


def unnamed(found: Iterable[str], table: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The names without an entry, and the entries that no name is of."""
    forms = {key: re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(key)) for key in table}
    plain = {key for key in table if "{" not in key}
    found, used, missing = set(found), set(), set()
    for name in found:
        fits = {name} & plain or {key for key, form in forms.items() if re.fullmatch(form, name)}
        used |= fits
        missing |= set() if fits else {name}
    return missing, {*table} - used


@pytest.fixture(scope="module")
def trainings(make_runner) -> list[Path]:
    runner = make_runner()
    return [runner(*overrides) for overrides in TRAININGS]


def test_training_writes_the_names_of_the_glossary(trainings) -> None:
    found = {name for run in trainings for row in read_jsonl(run / "metrics.jsonl") for name in row}
    missing, unwritten = unnamed(found, glossary.TRAINING)
    assert missing == set()
    assert unwritten - UNSEEN == set()


def test_completions_and_run_json_have_the_keys_of_the_glossary(trainings, runner) -> None:
    rows = [row for run in trainings for row in read_jsonl(run / "completions.jsonl")]
    assert unnamed({key for row in rows for key in row}, glossary.COMPLETION) == (set(), set())
    records = [read_json(run / "run.json") for run in trainings]
    answered = runner("task=predict", f"+video={clip_of(runner)}", "task.max_completion_length=4")
    records.append(read_json(answered / "run.json"))
    missing, unwritten = unnamed({key for one in records for key in one}, glossary.RECORD)
    assert missing == set()
    assert unwritten <= {"error", "left_out"}  # of runs that failed, and of other files


def clip_of(runner) -> Path:
    (root,) = (o.split("=")[1] for o in runner.overrides if o.startswith("dataset.root="))
    return next((Path(root) / "clips").glob("*.mp4"))


def test_evaluation_writes_the_names_of_the_glossary(trainings, runner, tmp_path) -> None:
    clip = clip_of(runner)
    question = {
        "problem": "What is seen?",
        "options": ["A. a face", "B. a car"],
        "solution": "<answer>A</answer>",
        "problem_type": "multiple choice",
        "data_type": "video",
        "path": str(clip),
    }
    (tmp_path / "questions.json").write_text(json.dumps([question]))
    asked = runner(
        "task=evaluate", "dataset=questions", f"dataset.annotations.test={tmp_path}/questions.json",
        "task.max_completion_length=4", "task.num_resamples=20",
    )  # fmt: skip
    folders = [trainings[1] / "test", asked / "test"]
    scores = {name for folder in folders for name in read_json(folder / "metrics.json")}
    assert unnamed(scores, glossary.SCORES) == (set(), set())
    rows = [row for folder in folders for row in read_jsonl(folder / "predictions.jsonl")]
    assert unnamed({key for row in rows for key in row}, glossary.PREDICTION) == (set(), set())


def test_attribution_writes_the_names_of_the_glossary(runner) -> None:
    run = runner("task=attribute", "task.num_resamples=20", "task.max_completion_length=8",
                 "task.num_chosen=0")  # fmt: skip
    report = read_json(run / "test" / "attribution.json")
    parts = (report["all"], report["swap"], report["faithfulness"])
    found = {name for part in parts for name in part}
    assert unnamed(found, glossary.ATTRIBUTION) == (set(), set())


def test_every_name_has_a_sentence() -> None:
    names = ("TRAINING", "SCORES", "ATTRIBUTION", "COMPLETION", "PREDICTION", "RECORD")
    tables = [vars(glossary)[name] for name in names]
    assert [t for table in tables for t in table.values() if not re.fullmatch(r".{7,}\.", t)] == []
