"""Strategies on one CUDA device against the CPU: ``pytest -m device -n 0 tests/device``.

Two steps of SFT and of GRPO each, on the tiny model; a few minutes at most. Sampling goes by logits
that a GPU rounds otherwise, so that GRPO's completions are compared in float32 alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from make_trainings import Case, Tools, trained

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CASES = {
    "sft": Case(([0, 1, 2], [3])),
    "grpo": Case(([0, 1, 2], [3]), grpo=True, num_steps=2),
}
SGD = partial(torch.optim.SGD, lr=0.05)


@pytest.fixture
def tools(tmp_path, build_policy, make_batch) -> Tools:
    build_policy().save(tmp_path / "base")
    return Tools(tmp_path / "base", build_policy, make_batch)


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten().float().cpu() for name in sorted(gradients)])


def both(case: Case, strategy: str, tools: Tools, tmp_path) -> tuple[dict[str, Any], ...]:
    """What a CUDA device finds, and what the CPU finds in float32."""
    places = [tmp_path / "cuda", tmp_path / "cpu"]
    for place in places:
        place.mkdir()
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return (
        trained(case, strategy, SGD, places[0], tools, device),
        trained(replace(case, precision="32-true"), "auto", SGD, places[1], tools),
    )


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_float32(case: str, strategy: str, tools: Tools, tmp_path) -> None:
    found, wanted = both(CASES[case], strategy, tools, tmp_path)
    ours, theirs = flat(found["gradients"]), flat(wanted["gradients"])
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert found["metrics"]["loss"] == pytest.approx(wanted["metrics"]["loss"], rel=1e-3, abs=1e-4)
    texts = [[row["completion"] for row in run["completions"]] for run in (found, wanted)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2"])
def test_bfloat16(strategy: str, tools: Tools, tmp_path) -> None:
    found, wanted = both(replace(CASES["sft"], precision="bf16-mixed"), strategy, tools, tmp_path)
    ours, theirs = flat(found["gradients"]), flat(wanted["gradients"])
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert found["metrics"]["loss"] == pytest.approx(wanted["metrics"]["loss"], rel=0.02)
