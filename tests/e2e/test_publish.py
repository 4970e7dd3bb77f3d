"""Exports go to the hub, here a local fake of it, with a model card that says how to load them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from hub import TOKEN, FakeHub, fake_hub
from huggingface_hub import ModelCard

from omni_rlvr.folders import SUMS, check_sums
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.trained_on import read_trained_on
from omni_rlvr.record import read_json
from omni_rlvr.tasks.export import check_repository
from omni_rlvr.types import UserError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one's own that this process is logged in to."""
    with fake_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        files = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def test_what_is_uploaded_is_what_is_exported(hub, runner, tmp_path):
    lora = ("model/trainable=lora", "model.trainable.lora.r=2")
    trained = runner(*runner.sft, *lora)
    start = f"model.path={trained}/checkpoint"
    runner("task=export", start, f"task.to={tmp_path}/merged")
    run = runner("task=export", start, "task.to=hub:the-lab/rlvr")
    there = hub.repositories["the-lab/rlvr"]
    names = {p.relative_to(tmp_path / "merged").as_posix() for p in _files(tmp_path / "merged")}
    assert {*there} == names | {".gitattributes"}
    for name in names - {"README.md"}:  # which names where it can be loaded from
        assert there[name] == (tmp_path / "merged" / name).read_bytes(), name
    assert b'load_policy("the-lab/rlvr")' in there["README.md"]
    assert hub.private == {"the-lab/rlvr": True}
    assert not [path for path in run.iterdir() if path.is_dir() and path.name != ".hydra"]
    loaded, exported = (
        load_policy(path, "float32", None) for path in ("the-lab/rlvr", f"{tmp_path}/merged")
    )
    weights = exported.state_dict()
    assert all(weights[name].equal(value) for name, value in loaded.state_dict().items())
    told = read_trained_on("the-lab/rlvr")
    assert told is not None
    assert told == read_trained_on(f"{trained}/checkpoint")


def test_a_public_repository_of_ones_own(hub, runner, checkpoint):
    start = f"model.path={checkpoint}"
    runner("task=export", start, "task.to=hub:mine", "task.private=false")
    assert hub.private == {"somebody/mine": False}
    card = hub.repositories["somebody/mine"]["README.md"].decode()
    assert "## Training" not in card, "no run that is known trained it"
    with pytest.raises(UserError, match=r"somebody/mine has \d+ files already; give"):
        runner("task=export", start, "task.to=hub:somebody/mine")


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("hub:", "give hub:NAME or hub:OWNER/NAME"),
        ("hub:a/b/c", "give hub:NAME or hub:OWNER/NAME"),
        ("hub:a b", "give hub:NAME or hub:OWNER/NAME"),
        ("hub:others/x", "somebody, who cannot write to others; give one of somebody, the-lab"),
    ],
)
def test_names_that_cannot_be_written(hub, to, told):
    assert told in refused(to)


def refused(to: str) -> str:
    with pytest.raises(UserError) as raised:
        check_repository(to)
    assert str(raised.value).startswith(f"task.to={to}: ")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_tokens_and_networks_that_do_not_serve(hub, runner, checkpoint, monkeypatch, tmp_path):
    hub.refuses_writing = True
    with pytest.raises(UserError, match="the token may not write there"):
        runner("task=export", f"model.path={checkpoint}", "task.to=hub:mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token; run 'hf auth login'" in refused("hub:mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token for the hub; run 'hf auth login'" in refused("hub:mine")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused("hub:mine")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub does not answer" in refused("hub:mine")


def test_the_card_of_a_checkpoint_says_what_its_run_did(runner, clips, tmp_path):
    splits = "task.evaluate_after.splits=[test]"
    run = runner(*runner.grpo, splits, "task.evaluate_after.max_completion_length=8")
    folder = (run / "checkpoint").resolve()
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "video-text-to-text"
    scores = read_json(run / "test" / "metrics.json")
    found = {row.metric_type: row.metric_value for row in card.data.eval_results}
    assert found == {"war": scores["war"], "uar": scores["uar"]}
    for said in ("after step 2", "r1_omni, split train", "policy gradient on 3 sampled completions",
                 "1.0 x accuracy, 1.0 x format", f"| test | 5 | {scores['war']} |"):  # fmt: skip
        assert said in card.text, said
    assert str(tmp_path) not in card.content, "no path of this machine"
    (folder / "README.md").write_text("mine")  # people edit cards
    assert check_sums(folder) is None
    assert "README.md" not in (folder / SUMS).read_text()
    clip = next((clips / "clips").glob("*.mp4"))
    check_code(card.text, folder.parent, clip)


def check_code(card: str, folder: Path, clip: Path) -> None:
    """Runs the code of a card as it stands, beside the folder that it names."""
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 2
    assert [line for line in blocks[0].splitlines() if line and not line.startswith("import ")]
    code = "\n".join(blocks) + "\nprint(type(model).__name__, type(processor).__name__)"
    code = code.replace('"clip.mp4"', repr(str(clip)))
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("OmniForConditionalGeneration OmniProcessor\n")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_hub_is_what_it_says(hub: FakeHub):
    assert huggingface_hub.HfApi().whoami()["name"] == "somebody"
    assert not huggingface_hub.HfApi().repo_exists("somebody/none")
