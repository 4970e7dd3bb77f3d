"""Private operators of torch: found as they are, and done without where they are missing."""

from __future__ import annotations

import pytest
import torch
from make_lms import make
from test_causal_lms import alone, gradient, make_rows

from omni_rlvr.models.prefix import kernels
from omni_rlvr.models.prefix.cpu_float32 import gemm, ops
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.models.prefix.private_operators import Operators, operators
from omni_rlvr.models.prefix.scoring import completion_hidden


def test_this_torch_has_all_of_them():
    # The versions that the lock file names are those that the speed was measured with.
    assert [name for name, operator in operators()._asdict().items() if operator is None] == []


def test_finding_them_draws_no_random_number():
    operators.cache_clear()
    before = torch.get_rng_state()
    operators()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)])
def test_they_are_found_under_any_mode(mode):
    operators.cache_clear()
    with mode:
        found = operators()
    assert None not in found


@pytest.mark.parametrize(
    "left_out",
    [
        ("onednn_linear", "onednn_reorder"),
        ("flash", "flash_backward"),
        ("silu_backward",),
        Operators._fields,
    ],
)
def test_what_is_missing_is_done_by_public_operations(left_out, monkeypatch):
    found = operators()._replace(**dict.fromkeys(left_out))
    for module in (kernels, gemm, ops):
        monkeypatch.setattr(module, "operators", lambda: found)
    model = make("qwen2").train()
    rows = make_rows(model)
    fast = fast_path()
    assert fast is not None
    assert fast.supports(model, rows.prompts.positions)
    hidden = completion_hidden(model, rows, gradient_checkpointing=False)
    torch.testing.assert_close(hidden, alone(model, rows), atol=2e-5, rtol=1e-5)
    got, expected = gradient(hidden, model), gradient(alone(model, make_rows(model)), model)
    assert (got - expected).norm() < 1e-5 * expected.norm()
