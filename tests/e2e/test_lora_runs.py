"""LoRA from the command's side: trained, resumed, evaluated and exported; what trains is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import assert_same, grpo, interrupted, steady

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.types import UserError

LORA = ("model/trainable=lora", "model.trainable.lora.r=4")
FILES = ("trained.safetensors", "adapters/language_model/adapter_model.safetensors")


@pytest.fixture(scope="module")
def trained(make_runner) -> tuple[object, Path]:
    """A runner and the folder of an SFT run with adapters."""
    runner = make_runner()
    return runner, runner(*runner.sft, *LORA, "optimizer.lr=0.01")


def moved(folder: Path) -> bool:
    """Whether an adapter is no longer what it was when it was new."""
    policy = load_policy(str(folder / "checkpoint"), "float32", None)
    return any(w.any() for name, w in policy.named_parameters() if "lora_B" in name)


def test_what_trains_is_printed_and_recorded(runner, capsys) -> None:
    folder = runner(*runner.sft, *LORA, "model.trainable.vision_tower=true")
    printed = capsys.readouterr().out
    rows = {row["part"]: row for row in read_json(folder / "run.json")["trainable"]}
    assert rows["lora"]["num_trained"] == rows["lora"]["num_weights"] > 0
    assert rows["vision_tower"]["num_trained"] == rows["vision_tower"]["num_weights"] > 0
    assert rows["language_model"]["num_trained"] == rows["audio_tower"]["num_trained"] == 0
    for part, row in rows.items():
        assert f"{part}" in printed
        assert f"{row['num_weights']:,}" in printed


@pytest.mark.parametrize("dropout", ["0", "0.3"])
def test_a_resumed_lora_run_equals_the_unbroken_one(runner, dropout: str) -> None:
    run = grpo(runner, *LORA, f"model.trainable.lora.dropout={dropout}", "optimizer.lr=0.01")
    torch.manual_seed(99)  # what the process drew before must not matter
    whole = runner(*run)
    torch.manual_seed(7)
    parted = interrupted(runner, 2, *run)
    assert runner(*run, "resume=latest") == parted
    assert steady(parted) == steady(whole)
    assert read_jsonl(parted / "completions.jsonl") == read_jsonl(whole / "completions.jsonl")
    for file in FILES:
        both = [(folder / "checkpoint" / file).read_bytes() for folder in (parted, whole)]
        assert both[0] == both[1]
    states = [torch.load(f / "checkpoint" / "trainer_state.pt") for f in (parted, whole)]
    assert_same(states[0]["optimizer"], states[1]["optimizer"])
    assert moved(whole)
    kl = [row["kl"] for row in steady(whole)]
    assert kl[-1] > 0


def test_the_kl_of_a_new_adapter_is_exactly_zero(runner) -> None:
    once = (*grpo(runner, *LORA), "stage.max_steps=1", "stage.num_iterations=1")
    rows = steady(runner(*once))
    assert [row["kl"] for row in rows] == [0.0]


def test_rlvr_goes_on_with_the_adapter_of_sft(trained) -> None:
    runner, folder = trained
    start = f"model.path={folder}/checkpoint"
    rlvr = runner(*grpo(runner), *LORA, start, "stage.num_iterations=1", "stage.max_steps=2")
    rows = steady(rlvr)
    assert rows[0]["kl"] == 0.0  # the reference has the adapter of SFT
    bases = [json.loads((f / "checkpoint" / "base.json").read_text()) for f in (folder, rlvr)]
    assert bases[0]["path"] == bases[1]["path"]
    with pytest.raises(UserError, match=r"lora\.r=8: the checkpoint's adapter .* has 4"):
        runner.build(*runner.sft, *LORA, start, "model.trainable.lora.r=8")


def answers(folder: Path) -> list[str]:
    return [row["completion"] for row in read_jsonl(folder / "test" / "predictions.jsonl")]


def test_an_exported_checkpoint_answers_as_the_adapter_does(trained, tmp_path, capsys) -> None:
    runner, folder = trained
    start = f"model.path={folder}/checkpoint"
    done = runner("task=export", start, f"task.to={tmp_path}/merged")
    assert f"checkpoint: {tmp_path}/merged" in capsys.readouterr().out
    assert read_json(done / "run.json")["status"] == "finished"
    assert moved(folder)
    merged = runner(*runner.evaluate, f"model.path={tmp_path}/merged")
    assert answers(merged) == answers(runner(*runner.evaluate, start))
    assert not (tmp_path / "merged" / "base.json").exists()
    with pytest.raises(UserError, match=r"task\.to=.*merged exists already"):
        runner("task=export", start, f"task.to={tmp_path}/merged")


def test_export_names_what_is_wrong(trained, tmp_path) -> None:
    runner, folder = trained
    start = f"model.path={folder}/checkpoint"
    with pytest.raises(UserError, match=r"^task\.to must be given"):
        runner("task=export", start)
    with pytest.raises(UserError, match=r"task\.layout='gguf' is out of range: omni or humanomni"):
        runner("task=export", start, "task.to=x", "task.layout=gguf")
    with pytest.raises(UserError, match=r"video_projector='mlp2x_gelu'.* is not HumanOmni's"):
        runner("task=export", start, f"task.to={tmp_path}/x", "task.layout=humanomni")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"task\.to=.*/file/x cannot be written"):
        runner("task=export", start, f"task.to={tmp_path}/file/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_base_that_moved_is_given_as_model_base(make_runner, checkpoint, tmp_path) -> None:
    runner = make_runner()
    base = load_policy(str(checkpoint), "float32", None)
    base.save(tmp_path / "base")
    folder = runner(*runner.sft, *LORA, f"model.path={tmp_path}/base")
    start = f"model.path={folder}/checkpoint"
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"its base .*set model\.base=DIR"):
        runner(*runner.evaluate, start)
    assert runner(*runner.evaluate, start, f"model.base={tmp_path}/moved")
    with pytest.raises(UserError, match=r"its base \(model\.base=nowhere\) is not at nowhere"):
        runner(*runner.evaluate, start, "model.base=nowhere")
    with pytest.raises(UserError, match=r"model\.base=.*has no adapter to put on it"):
        runner(*runner.evaluate, f"model.path={checkpoint}", f"model.base={tmp_path}/moved")
    spoken = runner.build(
        *runner.evaluate, start, f"model.base={tmp_path}/moved", "model.instruction=Say it."
    )[0]
    assert spoken.policy.processor.settings.instruction == "Say it."


def test_an_adapter_of_pefts_own_is_evaluated_trained_on_and_exported(
    runner, checkpoint: Path, tmp_path: Path
) -> None:
    alone = [f"model.trainable.{part}_projector=false" for part in ("video", "audio")]
    settings = (*LORA, *alone, "optimizer.lr=0.01")
    run = runner(*runner.sft, *settings)
    bare = tmp_path / "bare"
    shutil.copytree(run / "checkpoint/adapters/language_model", bare)
    with pytest.raises(UserError, match=r"names no base .* set model\.base=DIR"):
        runner.build(*runner.evaluate, f"model.path={bare}")
    given = runner(*runner.evaluate, f"model.path={bare}", f"model.base={checkpoint}")
    config = json.loads((bare / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(checkpoint)
    (bare / "adapter_config.json").write_text(json.dumps(config))
    named = runner(*runner.evaluate, f"model.path={bare}")
    expected = answers(runner(*runner.evaluate, f"model.path={run}/checkpoint"))
    assert answers(given) == answers(named) == expected
    runner("task=export", f"model.path={bare}", f"task.to={tmp_path}/merged")
    assert answers(runner(*runner.evaluate, f"model.path={tmp_path}/merged")) == expected
    on = runner(*runner.sft, *settings, f"model.path={bare}")
    assert (on / "checkpoint" / "base.json").exists()
    with pytest.raises(UserError, match="add model/trainable=lora"):
        runner.build(*runner.sft, f"model.path={bare}")


def test_a_tower_that_trains_resumes_exactly(runner, checkpoint: Path) -> None:
    run = grpo(runner, "model.trainable.vision_tower=true", "stage.micro_batch_size=2")
    whole, parted = runner(*run), interrupted(runner, 2, *run)
    runner(*run, "resume=latest")
    assert steady(parted) == steady(whole)
    weights = [(f / "checkpoint" / "model.safetensors").read_bytes() for f in (whole, parted)]
    assert weights[0] == weights[1]
    after, before = (load_file(f / "model.safetensors") for f in (whole / "checkpoint", checkpoint))
    changed = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert changed == {"vision_tower", "video_projector", "audio_projector", "language_model"}
