"""Everything that R1-Omni's own code computed on tiny weights, within 1e-4; and that the comparison
can fail.
"""

from __future__ import annotations

import json
from pathlib import Path

import parity
import pytest
import torch
from every_case import every_case
from parity_cases import Case
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity_A"


@pytest.fixture(scope="module")
def rows() -> list[parity.Row]:
    return list(parity.check(FOLDER))


def test_nothing_is_beyond_tolerance(rows) -> None:
    assert [row for row in rows if not row.ok] == []


def test_every_expected_tensor_was_compared(rows) -> None:
    names = {row.name for row in rows}
    expected = set(load_file(FOLDER / "expected.safetensors"))
    assert expected - names == {name for name in expected if name.endswith("stop_eos_id")}
    gradients = json.loads((FOLDER / "sft_grads.json").read_text())["values"]
    trained = {name for name, values in gradients.items() if values is not None}
    assert {f"sft_grad {name}" for name in trained} <= names
    assert len([name for name in names if name.startswith("rewards")]) == 2 * 61
    assert {"frames", "audio.mel_head", "frames.wide.pad", "e2e.loss", "s0.beta0.04.grad"} <= names


@every_case(
    ("change", "seen"),
    [
        (lambda m: setattr(m.config, "vision_select_layer", -1), "a1.vision_features"),
        (lambda m: m.video_projector.body.s2.b2.conv3.bn.weight.data.mul_(1.01), "a1.branch_body"),
        (lambda m: m.gate.head[2].bias.data.add_(torch.tensor([0.01, 0, 0])), "a1.gate_probs"),
        (lambda m: m.language_model.model.norm.weight.data.mul_(1.001), "a1.logits"),
    ],
)
def test_a_small_fault_is_seen(change, seen) -> None:
    model = parity.load_model(FOLDER)
    change(model)
    case = Case("a1", load_file(FOLDER / "inputs.safetensors"))
    with torch.no_grad():
        rows = parity.forward_rows(model, case, load_file(FOLDER / "expected.safetensors"))
        assert seen in {row.name for row in rows if not row.ok}


def test_the_command_exits_with_1_beyond_tolerance(monkeypatch, capsys) -> None:
    rows = [parity.Row("a", 0.0, 0.0), parity.Row("b", float("nan"), 1e-4)]
    monkeypatch.setattr(parity, "check", lambda folder: rows)
    monkeypatch.setattr("sys.argv", ["parity.py", str(FOLDER)])
    assert parity.main() == 1
    assert "FAIL" in capsys.readouterr().out
    monkeypatch.setattr(parity, "check", lambda folder: rows[:1])
    assert parity.main() == 0
