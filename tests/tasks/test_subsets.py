"""Mixes against batches that were collated so in the first place; donors by their rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from every_case import every_case
from make_shapes import StretchingProcessor, clip_of

from omni_rlvr.data.collate import Collate
from omni_rlvr.tasks.attribute.subsets import (
    NO_DONOR,
    Media,
    Mix,
    Replacements,
    distinct_mixes,
    find_donors,
    mixed,
    subset_mixes,
    swap_mixes,
)
from omni_rlvr.types import AudioShape, Features, Sample

DROP = Replacements([None] * 8, [None] * 8)


def encoded(policy, batch):
    with torch.no_grad():
        return policy.encode(batch)


def test_subsets_are_numbered_by_bits(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2, ("av",))
    mixes = subset_mixes(batch, DROP, num_players=2)
    assert [(m.row, m.audio, m.video) for m in mixes] == [
        (0, None, None), (0, 0, None), (0, None, 0), (0, 0, 0),
        (1, None, None), (1, 1, None), (1, None, 1), (1, 1, 1),
    ]  # fmt: skip
    assert all(m.text for m in mixes)
    three = subset_mixes(batch, DROP, num_players=3)
    assert [m.text for m in three[:8]] == [False] * 4 + [True] * 4
    assert three[4:8] == mixes[:4]


def test_a_clip_lacks_what_it_lacks_whatever_stands_for_it(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 3, ("v", "a", "t"))
    replacements = Replacements([1] * 3, [1] * 3)
    mixes = subset_mixes(batch, replacements, num_players=2)
    assert [(m.video, m.audio) for m in mixes] == [
        (1, None), (1, None), (0, None), (0, None),  # no sound; another picture, or its own
        (None, 1), (None, 1), (None, 1), (None, 1),  # no picture; row 1 stands in for itself
        (None, None), (None, None), (None, None), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["av", "v", "a", "t"])
def test_a_mix_is_what_collating_would_have_made(tiny_policy, make_batch, kind: str):
    whole = make_batch(tiny_policy, 4, ("av",))
    features = encoded(tiny_policy, whole)
    mixes = [
        Mix(row, row if "v" in kind else None, row if "a" in kind else None, True)
        for row in range(4)
    ]
    batch, media = mixed(whole, Media.of(whole, features), mixes, tiny_policy.processor)
    expected = make_batch(tiny_policy, 4, (kind,))
    assert torch.equal(batch.prompt_ids, expected.prompt_ids)
    assert torch.equal(batch.prompt_mask, expected.prompt_mask)
    assert torch.equal(batch.prompt_positions, expected.prompt_positions)
    assert batch.video_shapes == expected.video_shapes
    assert batch.audio_shapes == expected.audio_shapes
    assert media.video == (features.video if "v" in kind else [None] * 4)
    assert media.audio == (features.audio if "a" in kind else [None] * 4)


def test_text_left_out_leaves_the_instruction(tiny_policy, make_batch):
    processor = replace(
        tiny_policy.processor,
        settings=replace(tiny_policy.processor.settings, instruction="Answer now."),
    )
    batch = make_batch(tiny_policy, 1, ("av",))
    media = Media.of(batch, encoded(tiny_policy, batch))
    out, _ = mixed(batch, media, [Mix(0, None, None, False)], processor)
    text = processor.tokenizer.decode(out.prompt_ids[0])
    assert "Answer now." in text
    assert batch.examples[0].question not in text


def test_a_swap_has_ones_picture_and_the_others_sound(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, ("av", "a", "av", "v"))
    assert swap_mixes(batch, [1, 2, 0, NO_DONOR]) == [Mix(0, 0, 1, True), Mix(2, 2, 0, True)]


def test_a_swapped_sound_of_another_length_makes_the_prompt_of_a_file_with_that_sound():
    samples = [
        clip_of("ann", num_frames=4, step_s=0.25, sound_s=0.8),
        clip_of("bob", num_frames=2, step_s=1.3, sound_s=2.1),
        clip_of("cy", num_frames=6, sound_s=0.1),
    ]
    processor = StretchingProcessor()
    batch = Collate(processor, with_target=False)(samples)
    media = Media.of(batch, Features(batch.pixel_values, batch.input_features))
    got, features = mixed(batch, media, swap_mixes(batch, [1, 2, 0]), processor)
    anew = Collate(processor, with_target=False)(
        [
            Sample(own.example, replace(own.clip, waveform=other.clip.waveform))
            for own, other in zip(samples, [samples[1], samples[2], samples[0]], strict=True)
        ]
    )
    for name in ("prompt_ids", "prompt_mask", "prompt_positions"):
        assert torch.equal(vars(got)[name], vars(anew)[name])
    assert got.audio_shapes == anew.audio_shapes == [AudioShape(21), AudioShape(1), AudioShape(8)]
    assert got.video_shapes == batch.video_shapes
    assert features.video == media.features.video  # reused, not made again
    for ours, theirs in zip(features.audio, anew.input_features, strict=True):
        assert torch.equal(ours, theirs)


def test_distinct_mixes_are_found_again(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 8, ("av",))  # four questions, each twice
    mixes = subset_mixes(batch, DROP, num_players=2)
    distinct, index = distinct_mixes(batch, mixes)
    assert len(distinct) == 32 - 4  # without media, clips 4..7 ask what 0..3 do
    for mix, place in zip(mixes, index, strict=True):
        same = distinct[place]
        assert (same.video, same.audio, same.text) == (mix.video, mix.audio, mix.text)
        assert batch.examples[same.row].question == batch.examples[mix.row].question


@every_case("seed", range(5))
def test_donors_are_of_another_label_and_taken_once(seed: int):
    labels = ["sad"] * 5 + ["happy"] * 3 + ["angry"] * 2 + ["fear"]
    rows = [row for row in range(11) if row != 10]
    donors = find_donors(labels, rows, torch.Generator().manual_seed(seed))
    assert donors[10] == NO_DONOR
    assert sorted(donors[:10]) == rows  # 5 of 10 are sad: the most that can be paired
    assert all(labels[donor] != labels[row] for row, donor in enumerate(donors[:10]))


def test_a_class_too_large_goes_without():
    donors = find_donors(["a", "a", "a", "b"], [0, 1, 2, 3], torch.Generator())
    assert sum(donor == NO_DONOR for donor in donors) == 2
    assert donors[3] in (0, 1, 2)
    assert find_donors(["a", "a"], [0, 1], torch.Generator()) == [NO_DONOR] * 2
    assert find_donors(["a", "b"], [], torch.Generator()) == [NO_DONOR] * 2


def test_the_generator_decides_who_gives():
    labels = [name for name in "abcdefgh" for _ in range(3)]
    pairs = [find_donors(labels, range(24), torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert pairs[0] == pairs[1] != pairs[2]
