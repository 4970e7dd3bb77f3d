"""Compares this package with numbers that R1-Omni's own code computed: ``python tests/parity.py
DIR``.

DIR has the form of ``tests/fixtures/parity_A``; manifest.json there says what each tensor is.
Prints a line a tensor with its relative difference (largest difference by largest value) and exits
with 1 if one is beyond tolerance. Other sizes and seeds work as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from parity_cases import Case, completions, greedy, prompt_batch, release_processor
from safetensors.torch import load_file
from torch import Tensor

from omni_rlvr.functional import kl, losses
from omni_rlvr.functional.advantages import compute_advantages
from omni_rlvr.functional.masks import completion_mask
from omni_rlvr.media.frame_sampling import uniform_indices
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.published_layout import published_key
from omni_rlvr.models.composed.reading import read_model
from omni_rlvr.models.loading.config_file import read_fields
from omni_rlvr.rewards.r1_omni import PublishedAccuracy, PublishedFormat
from omni_rlvr.types import Example

RELATIVE, ABSOLUTE_GRPO, GRADIENT = 1e-4, 1e-6, 1e-3
CASE = ".bert_input_ids"
"""How a tensor that every case has ends."""
PADDED = ("attention_mask", "labels", "inputs_embeds", "logits")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether it is within tolerance; NaN is not."""
        return self.difference <= self.tolerance


def compare(name: str, got: Tensor, wanted: Tensor) -> Row:
    """Compares floats relatively; integers must be equal."""
    if got.shape != wanted.shape:
        return Row(f"{name} {list(got.shape)} for {list(wanted.shape)}", float("inf"), 0.0)
    if not wanted.is_floating_point():
        return Row(name, float((got != wanted).sum()), 0.0)
    largest = wanted.abs().max().clamp(min=1e-30)
    return Row(name, float((got.double() - wanted).abs().max() / largest), RELATIVE)


def close(name: str, got: Tensor, wanted: Tensor, tolerance: float = ABSOLUTE_GRPO) -> Row:
    """Compares absolutely."""
    return Row(name, float((got.double() - wanted).abs().max()), tolerance)


def widened(rows: Tensor, width: int, *, fill: int) -> Tensor:
    """Pads [B, L, ...] on the right, up to ``width``."""
    size = (len(rows), max(width - rows.shape[1], 0), *rows.shape[2:])
    return torch.cat([rows, rows.new_full(size, fill)], dim=1)


def load_model(folder: Path) -> OmniModel:
    """Loads DIR's checkpoint with the towers that DIR/towers.json describes."""
    with tempfile.TemporaryDirectory() as place:
        checkpoint = shutil.copytree(folder / "checkpoint", Path(place) / "checkpoint")
        shutil.copy(folder / "towers.json", checkpoint)
        model = read_model(checkpoint, read_fields(checkpoint), torch.float32, allow_pickle=False)
    model.requires_grad_(True)
    for part in (*model.towers().values(), model.audio_head):
        part.requires_grad_(False)
    return model.eval()


def forward_rows(model: OmniModel, case: Case, expected: dict[str, Tensor]) -> Iterator[Row]:
    """Compares every stop from pixels and sound to logits and loss."""
    name, parts = case.name, {**case.parts(model), **case.prompt(model)}
    there = expected[f"{name}.attention_mask"].bool()
    for key, wanted in expected.items():
        if not key.startswith(f"{name}."):
            continue
        got = parts[key.removeprefix(f"{name}.")]
        if key.removeprefix(f"{name}.") in PADDED:
            got = widened(got, there.shape[1], fill=-100 if "labels" in key else 0)
        if got.is_floating_point() and key.removeprefix(f"{name}.") in PADDED:
            got, wanted = got[there], wanted[there]  # what is beyond a row need not match
        yield compare(key, got, wanted)


def gradient_rows(model: OmniModel, wanted: dict, prefix: str) -> Iterator[Row]:
    """Compares each parameter's gradient norm, by its published name."""
    largest = max(values[0] for values in wanted["values"].values() if values)
    for ours, weight in model.named_parameters():
        values = wanted["values"].get(published_key(ours))
        if values is None:
            assert weight.grad is None, ours
            continue
        seen = 0.0 if weight.grad is None else float(weight.grad.norm())
        norm = max(values[0], 1e-6 * largest)  # some are zero but for rounding
        yield Row(f"{prefix}{published_key(ours)}", abs(seen - values[0]) / norm, GRADIENT)


def sft_gradient_rows(model: OmniModel, folder: Path, inputs: dict[str, Tensor]) -> Iterator[Row]:
    """Compares the gradients of the SFT loss of case av2."""
    wanted = json.loads((folder / "sft_grads.json").read_text())
    model.zero_grad()
    Case(wanted["case"], inputs).prompt(model)["sft_loss"].backward()
    yield from gradient_rows(model, wanted, "sft_grad ")


def completion_rows(
    model: OmniModel, inputs: dict[str, Tensor], expected: dict[str, Tensor]
) -> Iterator[Row]:
    """Compares log-probs of given completions, and greedy decoding."""
    case, mask = Case("av2", inputs), inputs["logp.completion_mask"].bool()
    batch = prompt_batch(model, case, [0], inputs["logp.prompt_ids"])
    logps = completions(model, batch, inputs["logp.completion_ids"], inputs["logp.completion_mask"])
    wanted = expected["logp.per_token_logps"]
    yield compare("logp.per_token_logps", logps[mask], wanted[mask])
    for key in (k.removesuffix(".prompt_ids") for k in inputs if k.startswith("gen.")):
        source, _, row = key.removeprefix("gen.").partition("_row")
        batch = prompt_batch(
            model, Case(source, inputs), [int(row or 0)], inputs[f"{key}.prompt_ids"]
        )
        stop = expected[f"{key}.stop_eos_id"]
        for suffix, penalty, eos in (("16", 1.0, -1), ("16_rp1.1", 1.1, -1), ("_stop", 1.0, stop)):
            ids, logits = greedy(model, batch, num_tokens=16, penalty=penalty, eos=int(eos))
            yield compare(f"{key}.greedy{suffix}", ids, expected[f"{key}.greedy{suffix}"])
            if suffix == "16":
                yield compare(f"{key}.greedy16_logits", logits, expected[f"{key}.greedy16_logits"])


def grpo_loss(logps: Tensor, ref: Tensor, mask: Tensor, advantages: Tensor, beta: float) -> Tensor:
    """Computes the loss of a first update."""
    objective, *_ = losses.clipped_surrogate(
        logps - logps.detach(), advantages, epsilon=0.2, epsilon_high=0.2, delta=None
    )
    per_token = beta * kl.k3(logps, ref) - objective
    return losses.sequence_mean(per_token, mask, num_sequences=len(logps))


def grpo_rows(folder: Path) -> Iterator[Row]:
    """Compares masks, advantages, k3, loss and its derivative on recorded log-probs."""
    tensors = load_file(folder / "grpo.safetensors")
    for name, setting in json.loads((folder / "grpo.json").read_text())["scenarios"].items():
        part = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)}
        mask = completion_mask(part["completion_ids"], eos_token_ids=[setting["eos_token_id"]])
        yield compare(f"{name}.completion_mask", mask, part["completion_mask"])
        advantages = compute_advantages(
            part["rewards"],
            num_generations=setting["num_generations"],
            estimator="grpo",
            scale_rewards="group",
        )
        yield close(f"{name}.advantages", advantages, part["advantages"])
        logps, ref = part["policy_logps"].requires_grad_(), part["ref_logps"]
        yield close(f"{name}.per_token_kl", kl.k3(logps, ref).detach(), part["per_token_kl"])
        for label in setting["results"]:
            loss = grpo_loss(logps, ref, mask, advantages, float(label.removeprefix("beta")))
            (gradient,) = torch.autograd.grad(loss, logps)
            key = f"{name}.{label}"
            yield close(f"{key}.loss", loss.detach(), part[f"{label}.loss"])
            yield close(f"{key}.grad", gradient, part[f"{label}.grad_policy_logps"])


def end_to_end_rows(model: OmniModel, folder: Path, inputs: dict[str, Tensor]) -> Iterator[Row]:
    """Compares one real GRPO loss with a reference model, and its gradients."""
    tensors = load_file(folder / "grpo.safetensors")
    part = {k.removeprefix("e2e."): v for k, v in tensors.items() if k.startswith("e2e.")}
    setting = json.loads((folder / "grpo.json").read_text())["e2e"]
    batch = prompt_batch(model, Case("av2", inputs), [0], part["prompt_ids"])
    ids, mask = part["completion_ids"], part["completion_mask"]
    reference = model.frozen_copy()
    reference.language_model.model.norm.weight.data.mul_(0.9)
    with torch.no_grad():
        ref = completions(reference, batch, ids, mask)
    model.zero_grad()
    logps, there = completions(model, batch, ids, mask), mask.bool()
    for name, got in (("per_token_logps", logps), ("ref_per_token_logps", ref)):
        yield compare(f"e2e.{name}", got[there].detach(), part[name][there])
    loss = grpo_loss(logps, ref, mask, part["advantages"], setting["beta"])
    loss.backward()
    yield close("e2e.loss", loss.detach(), part["loss"])
    yield from gradient_rows(model, setting["per_param_grad"], "grpo_grad ")


def rule_rows(folder: Path) -> Iterator[Row]:
    """Compares frame indices and rewards."""
    wrong = [
        row
        for row in json.loads((folder / "frames.json").read_text())["rows"]
        if row["kind"] == "file" and row["error"] is None
        if row["start"] is None and row["end"] is None and row["num_frames"] <= 10_000
        if uniform_indices(row["num_frames_total"], row["num_frames"]).tolist() != row["indices"]
    ]
    yield Row("frames", len(wrong), 0.0)
    for i, row in enumerate(json.loads((folder / "rewards.json").read_text())["rows"]):
        example = Example("", "", row["solution"].strip(), row["solution"], None)
        for name, term in (("accuracy", PublishedAccuracy()), ("format", PublishedFormat())):
            (score,) = term([row["completion"]], [example])
            yield Row(f"rewards[{i}].{name}", abs(score - row[name]), 0.0)


def media_rows(folder: Path) -> Iterator[Row]:
    """Compares pixels of raw frames, padded and squashed, and the log-mel of a sound."""
    tensors = load_file(folder / "preproc.safetensors")
    for key in (k.removesuffix(".raw") for k in tensors if k.endswith(".raw")):
        for fit in ("pad", "squash"):
            wanted = tensors[f"{key}.{fit}"]
            processor = release_processor(wanted.shape[-1], image_fit=fit)
            frames = tensors[f"{key}.raw"].numpy()
            yield compare(f"{key}.{fit}", processor.video(frames, frames[:, 0, 0, 0])[0], wanted)
    processor = release_processor(224, image_fit="pad")
    mel = processor.audio(tensors["audio.wave"].numpy())[0].unsqueeze(0)
    head, tail = tensors["audio.mel_head"], tensors["audio.mel_tail"]
    yield compare("audio.mel_shape", torch.tensor(mel.shape), tensors["audio.mel_shape"])
    yield compare("audio.mel_head", mel[0, :, : head.shape[1]], head)
    yield compare("audio.mel_tail", mel[0, :, -tail.shape[1] :], tail)
    yield compare("audio.mel_sum", mel.sum(), tensors["audio.mel_sum"])
    silence = processor.audio(torch.zeros(160_000).numpy())[0]
    wanted = tensors["audio.silence_mel_minmax"]
    yield compare("audio.silence_mel_minmax", torch.stack([silence.min(), silence.max()]), wanted)


def check(folder: Path) -> Iterator[Row]:
    """Makes every comparison that a folder allows."""
    model = load_model(folder)
    inputs = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        for name in sorted(k.removesuffix(CASE) for k in inputs if k.endswith(CASE)):
            yield from forward_rows(model, Case(name, inputs), expected)
        yield from completion_rows(model, inputs, expected)
    yield from sft_gradient_rows(model, folder, inputs)
    yield from grpo_rows(folder)
    yield from end_to_end_rows(model, folder, inputs)
    yield from rule_rows(folder)
    yield from media_rows(folder)


def main() -> int:
    """Prints a line a tensor; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    rows = list(check(parser.parse_args().folder))
    for row in rows:
        print(f"{'ok  ' if row.ok else 'FAIL'} {row.difference:9.2e} {row.name}")
    bad = sum(not row.ok for row in rows)
    print(f"{len(rows)} compared, {bad} beyond tolerance")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
