"""The order of training batches follows from seed and step; loaders give what they are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from every_case import every_case
from torch.utils.data import Dataset

from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.data.loader import (
    StepSampler,
    TrainData,
    evaluation_loader,
    make_loader,
    move,
    refuse_bad_media,
)
from omni_rlvr.types import MediaError, SkippedClip


def sampler(num_examples: int, **changes) -> StepSampler:
    settings = {"batch_size": 4, "num_steps": 6, "start": 0, "seed": 0}
    settings |= {"rank": 0, "num_ranks": 1}
    return StepSampler(num_examples=num_examples, **settings | changes)


def flatten(batches: Iterable[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


class Numbers(Dataset):
    """Item i is the number i."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


@every_case(("num_examples", "batch_size"), [(12, 4), (10, 4), (3, 4), (1, 4), (7, 1)])
def test_every_epoch_has_every_example_once(num_examples, batch_size):
    num_epochs = 4
    steps = num_epochs * num_examples  # batch_size epochs' worth and more
    flat = flatten(sampler(num_examples, batch_size=batch_size, num_steps=steps))
    assert len(flat) == steps * batch_size
    for epoch in range(num_epochs * batch_size):
        part = flat[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(part) == list(range(num_examples))


def test_epochs_and_seeds_differ():
    flat = flatten(sampler(20, num_steps=10))
    assert flat[:20] != flat[20:]
    assert flatten(sampler(20, num_steps=10, seed=1)) != flat
    assert flatten(sampler(20, num_steps=10)) == flat


@every_case("start", [0, 1, 4, 5, 11, 12])
def test_a_resumed_sampler_gives_exactly_the_tail(start):
    whole = list(sampler(10, num_steps=12))
    resumed = sampler(10, num_steps=12, start=start)
    assert list(resumed) == whole[start:]
    assert len(resumed) == 12 - start


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_share_each_batch_without_rest(num_ranks):
    # 10 examples, 4 a step: rank 0 of 2 has places 0 and 2 of each batch, rank 1 places 1 and 3.
    whole = list(sampler(10))
    parts = [list(sampler(10, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    for step, batch in enumerate(whole):
        assert {len(part[step]) for part in parts} == {4 // num_ranks}
        assert [batch[i] for i in range(4)] == [
            parts[i % num_ranks][step][i // num_ranks] for i in range(4)
        ]


def test_prompts_know_their_place_among_all_ranks(lossy):
    batch = replace(lossy, places=[0, 2])  # of three, the second could not be read
    for rank, expected in ((0, [0, 4]), (1, [1, 5])):
        assert sampler(10, rank=rank, num_ranks=2).places(batch) == expected


def test_a_longer_run_begins_like_a_shorter_one():
    assert list(sampler(10, num_steps=20))[:6] == list(sampler(10, num_steps=6))


def test_iterating_again_gives_the_same():
    one = sampler(10)
    assert list(one) == list(one)


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = list(sampler(10))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert list(sampler(10)) == first


@every_case(
    ("num_examples", "batch_size", "epochs", "max_steps", "expected"),
    [
        (100, 10, 1, -1, 10),
        (100, 10, 2.5, -1, 25),
        (
            101,
            10,
            1,
            -1,
            11,
        ),  # the last, partly filled batch counts (and is filled from the next epoch)
        (3, 10, 1, -1, 1),
        (3, 10, 0.01, -1, 1),  # never none
        (100, 10, 5, 7, 7),  # max_steps overrides epochs
        (5, 10, 1, 1000, 1000),
    ],
)
def test_num_steps_by_hand(num_examples, batch_size, epochs, max_steps, expected):
    loop = LoopConfig(batch_size=batch_size, num_train_epochs=epochs, max_steps=max_steps)
    assert loop.num_steps(num_examples) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_training_loader_follows_the_sampler(num_workers):
    plan = sampler(10, start=2)
    data = TrainData(Numbers(10), list, plan, num_workers=num_workers, on_bad_media="raise")
    loader = data.train_dataloader()
    assert len(loader) == 4
    assert list(loader) == list(plan)


@pytest.mark.parametrize(("size", "expected"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2])])
def test_evaluation_goes_over_all_in_order(size, expected):
    def loader(rank: int, num_ranks: int) -> list[list[int]]:
        how = {"num_workers": 0, "rank": rank, "num_ranks": num_ranks}
        return list(evaluation_loader(Numbers(size), list, batch_size=3, **how))

    batches = loader(0, 1)
    assert [len(batch) for batch in batches] == expected
    assert flatten(batches) == list(range(size))
    assert loader(0, 2) == batches[::2]
    assert loader(1, 2) == batches[1::2]


def test_workers_use_one_thread():
    class Threads(Numbers):
        def __getitem__(self, index: int) -> int:
            return torch.get_num_threads()

    loader = make_loader(Threads(2), list, [[0, 1]], num_workers=1)
    assert list(loader) == [[1, 1]]


def test_moving_takes_every_tensor_and_keeps_the_rest(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2, targets=["happy"])
    moved = move(batch, torch.device("meta"))
    for name, value in vars(batch).items():
        parts = value if name in ("pixel_values", "input_features") else [value]
        there = vars(moved)[name] if parts is value else [vars(moved)[name]]
        for before, after in zip(parts, there, strict=True):
            if isinstance(before, torch.Tensor):
                assert after.device.type == "meta"
                assert after.shape == before.shape
            else:
                assert after == before
    features = tiny_policy.encode(batch)
    bare = move(replace(batch, completion_ids=None, features=features), torch.device("meta"))
    assert bare.completion_ids is None
    assert bare.features.video[0].device.type == bare.features.audio[0].device.type == "meta"
    assert bare.features.audio[1] is None  # the second clip has no sound


@pytest.fixture
def lossy(tiny_policy, make_batch):
    """A batch of two clips, and a third that could not be read."""
    batch = make_batch(tiny_policy, 3)
    lost = SkippedClip(batch.examples[2], "clip2.mp4: is truncated (annotation made:clip2)")
    return replace(make_batch(tiny_policy, 2), skipped=[lost])


def test_a_lost_clip_ends_the_run_or_is_handed_on(lossy):
    assert refuse_bad_media(lossy, "skip") is lossy
    whole = replace(lossy, skipped=())
    assert refuse_bad_media(whole, "raise") is whole
    with pytest.raises(MediaError) as caught:
        refuse_bad_media(lossy, "raise")
    message = str(caught.value)
    assert message.startswith("clip2.mp4: is truncated (annotation made:clip2); ")
    assert "dataset.on_bad_media=skip" in message
    assert "\n" not in message


def test_training_data_refuses_before_a_batch_is_moved(lossy):
    def data(on_bad_media: str) -> TrainData:
        return TrainData(Numbers(3), list, sampler(3), num_workers=0, on_bad_media=on_bad_media)

    kept = data("skip").on_before_batch_transfer(lossy, 0)
    assert kept.skipped is lossy.skipped
    assert kept.prompt_ids is lossy.prompt_ids
    with pytest.raises(MediaError, match="clip2"):
        data("raise").on_before_batch_transfer(lossy, 0)


CRASH = """
from omni_rlvr.data.loader import make_loader
batches = iter(make_loader(list(range(99)), list, [[i] for i in range(99)], num_workers=2))
assert next(batches) == [0]
raise RuntimeError("a fault of ours")
"""


@pytest.mark.slow
def test_a_process_that_an_error_ends_does_not_wait_for_its_workers() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=90, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith("RuntimeError: a fault of ours\n")
