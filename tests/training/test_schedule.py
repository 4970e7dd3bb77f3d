"""The learning rate over a run, step by step, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from every_case import every_case

from omni_rlvr.training.schedule import lr_scale, make_schedule


def scales(num_steps: int, warmup_ratio: float, kind: str) -> list[float]:
    return [
        lr_scale(step, num_steps=num_steps, warmup_ratio=warmup_ratio, kind=kind)
        for step in range(num_steps)
    ]


def test_linear_by_hand():
    # 2 of 6 steps warm up: 1/3, 2/3; then 1 - k/4.
    assert scales(6, 1 / 3, "linear") == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])


def test_constant_by_hand():
    assert scales(5, 0.2, "constant") == pytest.approx([0.5, 1, 1, 1, 1])


def test_cosine_by_hand():
    # No warm-up, 4 steps: (1 + cos(k pi / 4)) / 2 for k = 0..3.
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert scales(4, 0.0, "cosine") == pytest.approx(expected)


def test_warm_up_rounds_up_to_whole_steps():
    # 3 % of 50 steps is 1.5: two steps.
    assert scales(50, 0.03, "constant")[:3] == pytest.approx([1 / 3, 2 / 3, 1])


@every_case("kind", ["cosine", "linear", "constant"])
@every_case("num_steps", [1, 2, 3, 10, 101])
@every_case("warmup_ratio", [0.0, 0.03, 0.5, 0.99])
def test_every_step_learns_and_none_exceeds_the_peak(kind, num_steps, warmup_ratio):
    values = scales(num_steps, warmup_ratio, kind)
    assert all(0 < value <= 1 for value in values)
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)])
def test_after_the_last_step_it_stays_at_the_end(kind, end):
    for step in (10, 11, 500):
        scale = lr_scale(step, num_steps=10, warmup_ratio=0.1, kind=kind)
        assert scale == pytest.approx(end, abs=1e-12)


def test_the_scheduler_sets_the_learning_rate_of_each_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.2)
    schedule = make_schedule(optimizer, num_steps=6, warmup_ratio=1 / 3, kind="linear")
    used = []
    for _ in range(6):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert used == pytest.approx([0.2 * s for s in scales(6, 1 / 3, "linear")])


def test_a_restored_scheduler_goes_on_where_it_stopped():
    def fresh():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, make_schedule(optimizer, num_steps=9, warmup_ratio=0.1, kind="cosine")

    optimizer, schedule = fresh()
    for _ in range(4):
        optimizer.step()
        schedule.step()
    state = schedule.state_dict(), optimizer.state_dict()
    other, resumed = fresh()
    other.load_state_dict(state[1])
    resumed.load_state_dict(state[0])
    for _ in range(3):
        for o, s in ((optimizer, schedule), (other, resumed)):
            o.step()
            s.step()
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
