"""transformers opens what the project writes, and computes the policy's own numbers with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_humanomni import build_humanomni
from torch.nn import functional
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

import omni_rlvr.hf  # noqa: F401  # registers the classes
from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.models.composed.auto_classes import OmniForConditionalGeneration, OmniProcessor
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.types import Example, Sample, UserError

PREVIOUS = Path(__file__).parents[1] / "fixtures" / "previous"
QUESTIONS = ("How does this person feel?", "Why?")
LORA = ("model/trainable=lora", "model.trainable.lora.r=2")


def opened(folder: Path):
    """The model and the processor, as transformers' users open them."""
    model = AutoModel.from_pretrained(folder, dtype="float32")
    return model, AutoProcessor.from_pretrained(folder)


def batch_of(policy, files):
    """Two clips as training reads them."""
    processor, samples = policy.processor, []
    for file, question in zip(files, QUESTIONS, strict=True):
        request = ClipRequest(
            processor.sampling, processor.sample_rate, True, True, processor.window_s
        )
        example = Example(file.stem, question, "happy", "happy", file)
        samples.append(Sample(example, read_clip(file, None, request)))
    return Collate(processor, with_target=False)(samples)


@torch.no_grad()
def check_equal(folder: Path, files, policy=None) -> None:
    """Prompts, logits and greedy tokens are those of the policy that this package loads."""
    policy = policy or load_policy(str(folder), "float32", None)
    model, processor = opened(folder)
    assert type(model) is OmniForConditionalGeneration
    assert type(processor) is OmniProcessor
    batch = batch_of(policy, files)
    prompts = policy.prompts(batch, policy.encode(batch))
    inputs = processor(text=list(QUESTIONS), video=list(files))
    assert torch.equal(inputs["input_ids"], batch.prompt_ids)
    wanted = policy.language_model(
        inputs_embeds=prompts.embeds, attention_mask=prompts.mask, position_ids=prompts.positions
    ).logits
    assert torch.equal(model(**inputs).logits, wanted)
    rollout = SharedPrefix().sample(
        policy,
        prompts,
        SamplingConfig(num_generations=1, temperature=0.0, max_completion_length=12),
        torch.Generator(),
        None,
    )
    plain = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 12}
    ids = model.generate(**inputs, **plain)
    texts = [text.split("<|im_end|>")[0] for text in processor.batch_decode(ids)]
    assert [text.strip() for text in texts] == [text.strip() for text in rollout.texts]


@pytest.fixture
def files(clips):
    return sorted((clips / "clips").glob("*.mp4"))[:2]


def test_a_checkpoint_opens_and_gives_the_policys_numbers(runner, files, tmp_path):
    run = runner(*runner.sft)
    check_equal(run / "checkpoint", files)
    model, processor = opened(run / "checkpoint")
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    check_equal(tmp_path / "again", files)
    assert type(AutoModelForMultimodalLM.from_pretrained(tmp_path / "again")) is type(model)


def test_an_adapter_checkpoint_opens_with_its_base_and_so_does_its_export(runner, files, tmp_path):
    run = runner(*runner.sft, *LORA, "optimizer.lr=0.1")
    with torch.no_grad():
        model, processor = opened(run / "checkpoint")
        policy = load_policy(str(run / "checkpoint"), "float32", None)
        batch = batch_of(policy, files)
        prompts = policy.prompts(batch, policy.encode(batch))
        wanted = policy.language_model(
            inputs_embeds=prompts.embeds, attention_mask=prompts.mask
        ).logits
        inputs = processor(text=list(QUESTIONS), video=list(files))
        torch.testing.assert_close(model(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
        base = AutoModel.from_pretrained(policy.adapter_checkpoint.base)
        assert not torch.allclose(base(**inputs).logits, wanted, atol=1e-2)
    with pytest.raises(UserError, match="only dtype can be given, not device_map"):
        AutoModel.from_pretrained(run / "checkpoint", device_map="cpu")
    runner("task=export", f"model.path={run}/checkpoint", f"task.to={tmp_path}/merged")
    check_equal(tmp_path / "merged", files)


@pytest.mark.parametrize("name", ["base", "outputs/sft/run/checkpoints/step_000002"])
def test_checkpoints_of_the_previous_version_open(name, files):
    folder = PREVIOUS / name
    assert not (folder / "generation_config.json").exists()
    check_equal(folder, files)
    model, processor = opened(folder)
    assert model.generation_config.eos_token_id == processor.processor.stop_ids


def test_adapters_of_the_previous_version_open_by_the_class_itself(files):
    folder = PREVIOUS / "outputs/grpo/run/checkpoints/step_000002"
    with pytest.raises(ValueError, match=r"config\.json"):
        AutoModel.from_pretrained(folder)
    model = OmniForConditionalGeneration.from_pretrained(folder)
    inputs = OmniProcessor.from_pretrained(folder)(text=list(QUESTIONS), video=list(files))
    assert torch.isfinite(model(**inputs).logits).all()


def test_a_model_with_a_gate_reads_the_question_there(files, tmp_path):
    policy = build_humanomni()
    policy.save(tmp_path / "ours")
    check_equal(tmp_path / "ours", files, load_policy(str(tmp_path / "ours"), "float32", None))
    model, processor = opened(tmp_path / "ours")
    inputs = processor(text="Why?", video=files[0])
    del inputs["gate_input_ids"]
    with pytest.raises(ValueError, match="gate_input_ids"):
        model(**inputs)


def test_frames_and_sounds_that_were_read_elsewhere(checkpoint, files):
    model, processor = opened(checkpoint)
    clip = read_clip(files[0], None, ClipRequest(processor.processor.sampling, 16000, True, True))
    given = {"text": "Why?", "video": clip.frames, "audio": clip.waveform[:16000]}
    assert torch.equal(processor(text="Why?", video=files[0])["pixel_values"],
                       processor(**given)["pixel_values"])  # fmt: skip
    kinds = [{"text": "Why?"}, {"text": "Why?", "video": clip.frames}]
    for some in (*kinds, {"text": "Why?", "audio": clip.waveform[:16000]}, given):
        inputs = processor(**some)
        assert ("pixel_values" in inputs) == ("video" in some)
        assert ("input_features" in inputs) == ("audio" in some)
        assert torch.isfinite(model(**inputs).logits).all()
    with pytest.raises(ValueError, match="2 questions but 1 entries of video"):
        processor(text=["a", "b"], video=files[0])
    with pytest.raises(ValueError, match="only 'pt'"):
        processor(text="a", return_tensors="np")
    with pytest.raises(UserError, match="no such file"):
        processor(text="a", video=files[0].with_name("none.mp4"))
    with pytest.raises(UserError, match=r"<\|im_end\|>"):
        processor(text="a<|im_end|>")


def test_the_loss_is_that_of_the_labels(checkpoint, files):
    model, processor = opened(checkpoint)
    inputs = processor(text="Why?", video=files[0])
    labels = inputs["input_ids"].clone()
    labels[labels < 0] = -100
    out = model(**inputs, labels=labels)
    by_hand = functional.cross_entropy(out.logits[0, :-1], labels[0, 1:])  # -100 does not count
    torch.testing.assert_close(out.loss, by_hand)


def test_what_was_published_for_generating_stays_in_exports(runner, published, tmp_path):
    told = {"repetition_penalty": 1.05, "top_k": 20, "temperature": 0.7, "do_sample": True}
    (published / "generation_config.json").write_text(json.dumps(told))
    for layout in ("omni", "humanomni"):
        if layout == "humanomni" and "qwen" in published.name:
            continue
        to = tmp_path / f"as_{layout}"
        own = [f"model.path={published}", f"task.to={to}", f"task.layout={layout}"]
        runner("task=export", *own)
        kept = json.loads((to / "generation_config.json").read_text())
        assert told.items() <= kept.items()


@pytest.fixture(params=["humanomni", "qwen2_5_omni_thinker", "qwen2_audio"])
def published(request, tmp_path):
    """A folder in the layout that its authors publish."""
    from omni_rlvr.models.composed.publish import export_published
    from omni_rlvr.models.families import family_of

    folder = tmp_path / request.param
    if request.param == "humanomni":
        export_published(build_humanomni(), folder)
    else:
        family_of(request.param).tiny(0, request.param).save(folder)
    return folder


def test_the_import_alone_is_fast() -> None:
    """Not of ``omni_rlvr.hf``, which imports transformers, but of the package."""
    code = "import time; t = time.perf_counter(); import omni_rlvr; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True, env={**os.environ})  # fmt: skip
    assert float(done.stdout) < 0.3
