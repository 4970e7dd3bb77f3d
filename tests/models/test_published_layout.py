"""Published checkpoints load as they are, come back from both layouts, and say what is wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HFValidationError
from safetensors.torch import load_file, save_file

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.composed.presets import TOWERS
from omni_rlvr.models.composed.publish import export_published
from omni_rlvr.models.composed.tokenizers import PACKAGED
from omni_rlvr.models.loading import hub
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.text.prompts import INSTRUCTION
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(folder: Path | str, **options):
    return load_policy(str(folder), "float32", None, LoadOptions(**options))


def refused(folder: Path | str, *mentions: str, **options) -> None:
    with pytest.raises(UserError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for mention in (f"model.path={folder}", *mentions):
        assert mention in message


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def prompt_logits(policy, batch) -> torch.Tensor:
    with torch.no_grad():
        embeds = policy.prompts(batch, policy.encode(batch)).embeds
        return policy.language_model(inputs_embeds=embeds, attention_mask=batch.prompt_mask).logits


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def shard(folder: Path) -> list[str]:
    """Splits a folder's weights over two files and an index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    index = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / WEIGHTS).unlink()
    return sorted(set(index.values()))


def test_loading_gives_the_model_that_was_published(humanomni, published_folder, make_batch):
    loaded = load(published_folder)
    assert same(loaded, humanomni)
    batch = make_batch(humanomni, 4)
    torch.testing.assert_close(prompt_logits(loaded, batch), prompt_logits(humanomni, batch))
    assert loaded.processor.settings == humanomni.processor.settings
    assert loaded.processor.settings.instruction == INSTRUCTION


def test_both_layouts_come_back(published_folder, make_batch, tmp_path):
    loaded = load(published_folder)
    loaded.save(tmp_path / "ours")
    ours = load(tmp_path / "ours")
    export_published(ours, tmp_path / "theirs")
    theirs = load(tmp_path / "theirs")
    batch = make_batch(loaded, 4)
    wanted = prompt_logits(loaded, batch)
    for policy in (ours, theirs):
        assert same(policy, loaded)
        torch.testing.assert_close(prompt_logits(policy, batch), wanted)
    assert set(load_file(tmp_path / "theirs" / WEIGHTS)) == set(
        load_file(published_folder / WEIGHTS)
    )


def test_config_and_generation_config_survive(published_folder, tmp_path):
    edit_json(published_folder / "config.json", hyper_layers=[15, 22], mm_projector_lr=None)
    generation = {"repetition_penalty": 1.1, "eos_token_id": [2, 0]}
    (published_folder / "generation_config.json").write_text(json.dumps(generation))
    load(published_folder).save(tmp_path / "ours")
    export_published(load(tmp_path / "ours"), tmp_path / "theirs")
    fields = json.loads((tmp_path / "theirs" / "config.json").read_text())
    before = json.loads((published_folder / "config.json").read_text())
    assert {k: fields[k] for k in before} == before
    assert json.loads((tmp_path / "theirs" / "generation_config.json").read_text()) == generation


def test_paths_in_the_config_are_not_read(published_folder, humanomni):
    nowhere = "/mnt/data/nobody/some/tower"
    edit_json(published_folder / "config.json", mm_vision_tower=nowhere, mm_audio_tower=nowhere)
    assert same(load(published_folder), humanomni)


def test_gate_vocabulary_comes_with_the_package(published_folder):
    processor = load(published_folder).processor
    ids, mask = processor.gate_tokens(["The quick brown fox", "feelings"])
    # bert-base-uncased: [CLS] the quick brown fox [SEP]; feelings is one word
    assert ids.tolist() == [[101, 1996, 4248, 2829, 4419, 102], [101, 5346, 102, 0, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_a_vocabulary_of_another_size(published_folder, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhappy\n")
    for path, word in ((vocab, "6 tokens"), (tmp_path / "none.txt", "not a file")):
        with pytest.raises(UserError, match=word):
            load(published_folder, gate_vocab=str(path))


def test_shards(published_folder, humanomni):
    first, second = shard(published_folder)
    assert same(load(published_folder), humanomni)
    data = (published_folder / second).read_bytes()
    (published_folder / second).write_bytes(data[: len(data) // 2])
    refused(published_folder, second, "cut short", "download it again")
    (published_folder / second).unlink()
    refused(published_folder, second, "missing")
    (published_folder / second).write_bytes((published_folder / first).read_bytes())
    refused(published_folder, "the index promises")
    (published_folder / INDEX).write_text("{}")
    refused(published_folder, INDEX, "not an index")


def test_git_lfs_pointer(published_folder):
    (published_folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid 0\n")
    refused(published_folder, "Git-LFS pointer", "git lfs pull")


def test_pickled_weights_only_where_they_are_allowed(published_folder, humanomni):
    weights = load_file(published_folder / WEIGHTS)
    (published_folder / WEIGHTS).unlink()
    torch.save(weights, published_folder / "pytorch_model.bin")
    refused(published_folder, "pytorch_model.bin", "allow_pickle=true")
    assert same(load(published_folder, allow_pickle=True), humanomni)


class Harmful:
    """Would run when unpickled."""

    def __reduce__(self):
        return Path.write_text, (Path("harm.txt"), "done")


def test_code_in_pickled_weights_is_not_run(published_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (published_folder / WEIGHTS).unlink()
    torch.save({"model.norm.weight": Harmful()}, published_folder / "pytorch_model.bin")
    refused(published_folder, "cannot be read", allow_pickle=True)
    assert not (tmp_path / "harm.txt").exists()


def test_another_architecture(published_folder):
    edit_json(published_folder / "config.json", model_type="Vlm_qwen2")
    refused(published_folder, "'Vlm_qwen2'", "known: omni_rlvr, HumanOmni_qwen2")


def test_missing_tokenizer(published_folder):
    (published_folder / "tokenizer.json").unlink()
    refused(published_folder, "no tokenizer", "copy it")


@pytest.mark.parametrize("field", ["num_frames", "mm_projector_type", "mm_vision_select_layer"])
def test_missing_field(published_folder, field):
    fields = json.loads((published_folder / "config.json").read_text())
    del fields[field]
    (published_folder / "config.json").write_text(json.dumps(fields))
    refused(published_folder, "config.json", f"'{field}'")


def test_unknown_projector(published_folder):
    edit_json(published_folder / "config.json", mm_projector_type="stc_connector")
    with pytest.raises(UserError, match="stc_connector"):
        load(published_folder)


NAME = "model.mm_projector.s1_video.b1.conv1.conv.weight"
"""Wrong keys are named as they are in the file."""


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        (lambda w: w.pop(NAME), ("missing", NAME)),
        (
            lambda w: w.update({"model.feature_compressor.x": torch.zeros(2)}),
            ("unexpected", "model.feature_compressor.x"),
        ),
        (
            lambda w: w.update({NAME: w[NAME][:8].contiguous()}),
            (NAME, "is [8, 16, 1, 1]", "[32, 16, 1, 1]"),
        ),
    ],
)
def test_wrong_weights_are_named(published_folder, change, mentions):
    edit_weights(published_folder, change)
    refused(published_folder, *mentions)


GATE = [f"model.bert_gate.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")]


@pytest.mark.parametrize(
    "gone", [GATE, GATE[1:2], GATE[2:], ["model.bert_gate", "model.bert_model"]]
)
def test_a_checkpoint_without_its_gate_names_what_is_missing(published_folder, gone):
    edit_weights(
        published_folder, lambda w: [w.pop(name) for name in [*w] if name.startswith(tuple(gone))]
    )
    named = [name for name in GATE if name.startswith(tuple(gone))]
    refused(
        published_folder,
        "the weights lack the gate of mm_projector_type='all_in_one_small'",
        f"missing ({len(named)}): {', '.join(named)}; the checkpoint was saved without them",
        "download it again, or copy them from the one that it was trained from",
    )


def test_every_group_of_weights_that_is_missing_is_named(published_folder):
    weights = load_file(published_folder / WEIGHTS)
    groups = {".".join(name.split(".")[:2]) for name in weights} - {"lm_head.weight"}
    assert len(groups) == 9
    for group in groups:
        kept = {name: value for name, value in weights.items() if not name.startswith(group)}
        save_file(kept, published_folder / WEIGHTS, metadata={"format": "pt"})
        refused(published_folder, f"{group}.", "missing", "download it again")


def test_towers_of_unknown_size(published_folder):
    (published_folder / TOWERS).rename(published_folder / "elsewhere.json")
    refused(published_folder, "siglip-base-patch16-224", TOWERS)
    (published_folder / TOWERS).write_text("[]")
    refused(published_folder, TOWERS, "vision, audio, bert")


def test_weights_without_a_tower(published_folder):
    (published_folder / TOWERS).unlink()
    edit_weights(
        published_folder,
        lambda w: [w.pop(name) for name in list(w) if "vision_tower" in name],
    )
    refused(published_folder, "no vision tower")


def test_hub_id(published_folder, humanomni, monkeypatch):
    asked = {}

    def download(name, *, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(published_folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert same(load("Someone/R1-Omni-0.5B"), humanomni)
    assert asked["name"] == "Someone/R1-Omni-0.5B"
    assert "*.bin" not in asked["patterns"]
    assert not any(pattern.endswith("py") for pattern in asked["patterns"])


def test_hub_out_of_reach():
    refused(
        "Someone/R1-Omni-0.5B",
        "the hub could not be reached to look for it (",
        "give the folder of a copy",
        "set HF_HOME",
    )


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    def download(name, *, allow_patterns):
        raise HFValidationError("no such repository")

    monkeypatch.setattr(hub, "snapshot_download", download)
    refused("Someone/R1-Omni-0.5B", "cannot be downloaded from the hub: no such", "check the name")


def test_a_tokenizer_without_template_gets_qwens(published_folder):
    for name in ("chat_template.jinja", "chat_template.json"):
        (published_folder / name).unlink(missing_ok=True)
    processor = load(published_folder).processor
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    saved = {"chat_template": "{{ messages[0]['content'] }}!"}
    (published_folder / "chat_template.json").write_text(json.dumps(saved))
    tokenizer = load(published_folder).processor.tokenizer
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
    )


def test_export_over_the_folder_that_was_loaded(published_folder, humanomni):
    export_published(load(published_folder), published_folder)
    assert same(load(published_folder), humanomni)


def test_the_tiny_model_has_no_published_layout(tiny_policy, tmp_path):
    with pytest.raises(UserError, match="mlp2x_gelu"):
        export_published(tiny_policy, tmp_path)


def test_the_packaged_vocabulary_is_berts():
    lines = PACKAGED.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 30_522
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    assert {i: lines[i] for i in special} == special
    digest = hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
    assert digest == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
