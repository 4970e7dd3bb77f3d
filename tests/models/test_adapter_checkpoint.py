"""Adapter checkpoints come back on their base; a base that is gone, changed or damaged is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from make_lora import adapted, base, batch, config, logits, move, saved
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.adapters import adapter_checkpoint
from omni_rlvr.models.adapters.trainable import apply, weights_of
from omni_rlvr.models.loading.load import load_policy, put_onto
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # checkpoints are written and read

__all__ = ["base", "batch", "saved"]  # fixtures


def test_a_checkpoint_holds_no_base_and_comes_back(saved, base, batch):
    folder, expected = saved
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        "adapters/language_model/adapter_model.safetensors",
        "adapters/language_model/adapter_config.json",
        "trained.safetensors",
        "base.json",
        "processor_settings.json",
        "config.json",  # of the base, for transformers
    }
    assert "model.safetensors" not in files
    names = {name.split(".")[0] for name in load_file(folder / "trained.safetensors")}
    assert names == {"video_projector", "audio_projector"}
    assert torch.equal(logits(load_policy(str(folder), "float32", None), batch), expected)
    assert (
        load_policy(str(folder), "float32", "Say it.").processor.settings.instruction == "Say it."
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_itself_reads_the_adapter(saved, batch):
    folder, _ = saved
    ours = load_policy(str(folder), "float32", None)
    bare = load_policy(json.loads((folder / "base.json").read_text())["path"], "float32", None)
    bare_lm = AutoModelForCausalLM.from_config(bare.config.text_config)
    bare_lm.load_state_dict(bare.language_model.state_dict())
    theirs = peft.PeftModel.from_pretrained(bare_lm, folder / "adapters" / "language_model").eval()
    ids = batch.completion_ids
    with torch.no_grad():
        got, plain = theirs(ids).logits, bare.language_model(ids).logits
        torch.testing.assert_close(got, ours.language_model(ids).logits, atol=1e-6, rtol=0)
        assert not torch.allclose(got, plain, atol=1e-2)


def test_weights_trained_earlier_are_not_lost_when_they_no_longer_train(saved, batch, tmp_path):
    folder, expected = saved
    policy = load_policy(str(folder), "float32", None)
    apply(policy, config(video_projector=False, audio_projector=False), folder)
    policy.save(tmp_path / "second")
    again = load_policy(str(tmp_path / "second"), "float32", None)
    assert torch.equal(logits(again, batch), expected)


def test_adapters_on_a_tower_come_back(base, batch, tmp_path):
    policy = adapted(base, parts=["vision_tower", "language_model"])
    move(policy)
    policy.save(tmp_path / "both")
    assert sorted(p.name for p in (tmp_path / "both" / "adapters").iterdir()) == [
        "language_model",
        "vision_tower",
    ]
    again = load_policy(str(tmp_path / "both"), "float32", None)
    assert torch.equal(logits(again, batch), logits(policy, batch))


def test_a_base_that_moved_is_named_and_can_be_given(saved, base, batch):
    folder, expected = saved
    moved = base.rename(base.with_name("moved"))
    with pytest.raises(UserError, match=rf"its base .* is not at {base}; set model\.base=DIR$"):
        load_policy(str(folder), "float32", None)
    found = adapter_checkpoint.find_base(folder, str(moved))
    policy = load_policy(str(found), "float32", None)
    put_onto(policy, found, folder, LoadOptions(), None)
    assert torch.equal(logits(policy, batch), expected)
    assert policy.adapter_checkpoint.base == moved


def test_another_model_in_the_place_of_the_base_is_noticed(saved, base):
    other = load_policy(str(base), "float32", None)
    move(other)
    other.save(base)
    with pytest.raises(UserError, match=r"is not the base it was trained on .*set model\.base=DIR"):
        load_policy(str(saved[0]), "float32", None)


def test_a_checkpoint_of_an_earlier_version_knows_its_base_by_all_bytes(saved, base):
    file = saved[0] / "base.json"
    fields = json.loads(file.read_text())
    assert fields["fingerprint"].startswith("sampled:")
    digest = hashlib.sha256()  # of names and digests of files, worked out anew
    for name in ("config.json", "model.safetensors"):
        digest.update(name.encode() + hashlib.sha256((base / name).read_bytes()).digest())
    file.write_text(json.dumps({**fields, "fingerprint": digest.hexdigest()}))
    assert adapter_checkpoint.find_base(saved[0], None) == base
    _change(base / "model.safetensors", -1)
    with pytest.raises(UserError, match="is not the base it was trained on"):
        adapter_checkpoint.find_base(saved[0], None)


def test_a_large_base_is_known_by_a_sample_of_it(tmp_path):
    """8 MB: the header, the size and spans of the file count, and half of it is never read."""
    file = tmp_path / "model.safetensors"

    def seen(**weights: torch.Tensor) -> str:
        save_file({"a": torch.zeros(2_000_000), "b": torch.ones(8)} | weights, file)
        return adapter_checkpoint.fingerprint(tmp_path)

    start = seen()
    assert seen() == start
    zeros, moved = torch.zeros(2_000_000), torch.zeros(2_000_000)
    moved[1_000_000:1_100_000] = 1e-3  # as if a twentieth of the weights had been trained
    for other in (
        {"a": moved},
        {"b": torch.zeros(8)},
        {"a": torch.zeros(2_000_001)},
        {"a": zeros.view(2, -1)},
        {"c": torch.ones(1)},
    ):
        assert seen(**other) != start
    assert seen() == start
    whole = adapter_checkpoint.fingerprint(tmp_path, whole=True)
    changed = [place for place in range(100_000, 300_000, 20_000) if _is_missed(file, place, start)]
    assert changed  # between spans
    _change(file, changed[0])
    assert adapter_checkpoint.fingerprint(tmp_path, whole=True) != whole


def _is_missed(file: Path, place: int, start: str) -> bool:
    """Whether a sample does not see a byte that is changed."""
    _change(file, place)
    missed = adapter_checkpoint.fingerprint(file.parent) == start
    _change(file, place)
    return missed


def _change(file: Path, place: int) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f / "adapters"), "there is no adapter in"),
        (lambda f: (f / "trained.safetensors").unlink(), "trained.safetensors cannot be read"),
        (lambda f: _cut(f / "trained.safetensors"), "trained.safetensors cannot be read"),
        (lambda f: _cut(f / "adapters/language_model/adapter_model.safetensors"), "does not fit"),
        (lambda f: (f / "adapters/language_model/adapter_config.json").unlink(), "does not fit"),
        (lambda f: (f / "base.json").write_text("{}"), "base.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(saved, damage, message):
    damage(saved[0])
    with pytest.raises(UserError, match=message) as caught:
        load_policy(str(saved[0]), "float32", None)
    assert "\n" not in str(caught.value)


def test_adapters_of_a_half_precision_base_are_float32(base, batch, tmp_path):
    policy = load_policy(str(base), "bfloat16", None)
    apply(policy, config(), base)
    assert {w.dtype for w in weights_of(policy)["lora"].values()} == {torch.float32}
    move(policy)
    policy.save(tmp_path / "half")
    again = load_policy(str(tmp_path / "half"), "bfloat16", None)
    assert torch.equal(logits(again, batch), logits(policy, batch))
