"""What a cached clip is known by, and that another file, tower or dtype is another entry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.features.cache import FeatureCache, clip_key, open_cache
from omni_rlvr.models.loading.fingerprint import tower_fingerprints, weights_hash
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json
from omni_rlvr.rollout.encode import encode
from omni_rlvr.types import (
    AudioShape,
    Batch,
    ClipFeatures,
    Example,
    Features,
    Sample,
    UserError,
    VideoShape,
)

PREVIOUS = Path(__file__).parents[1] / "fixtures" / "previous"
BOTH = {"video": True, "audio": True}


@pytest.fixture
def cache(tmp_path: Path, tiny_policy) -> FeatureCache:
    return opened(tmp_path, tiny_policy)


def opened(tmp_path: Path, policy, use=BOTH, **options) -> FeatureCache:
    config = FeatureCacheConfig(folder=str(tmp_path / "features"), **options)
    return open_cache(config, tower_fingerprints(policy), use, policy.processor.common_shapes)


@pytest.fixture
def batch(tmp_path: Path, tiny_policy, make_batch) -> Batch:
    """Four rows (video + audio, video, audio, neither) whose files exist."""
    made = make_batch(tiny_policy, 4)
    examples = []
    for i, one in enumerate(made.examples):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(b"x" * (i + 1))
        examples.append(replace(one, video=path))
    return replace(made, examples=examples)


def test_features_come_back_rounded_and_absence_is_known(cache, batch, tiny_policy) -> None:
    assert [cache.get(e) for e in batch.examples] == [None] * 4
    features = tiny_policy.encode(batch)
    cache.put(batch, features)
    got = [cache.get(e) for e in batch.examples]
    assert all(isinstance(one, ClipFeatures) for one in got)
    assert [one.video is not None for one in got] == [True, True, False, False]
    assert [one.audio is not None for one in got] == [True, False, True, False]
    assert torch.equal(got[1].video, features.video[1].bfloat16())
    assert torch.equal(got[2].audio, features.audio[2].bfloat16())
    assert [one.video_shape for one in got] == batch.video_shapes
    assert [one.audio_shape for one in got] == batch.audio_shapes
    assert all(cache.holds(e) for e in batch.examples)


def test_a_shape_is_kept_with_its_features(tmp_path, batch, tiny_policy) -> None:
    """Clips of another family differ in shape; a later run reads what the earlier one stored."""
    seen, heard = VideoShape(12, (2, 3, 2), 0.52), AudioShape(7)
    batch = replace(batch, video_shapes=[seen, None, None, None], audio_shapes=[heard] + [None] * 3)
    opened(tmp_path, tiny_policy).put(batch, tiny_policy.encode(batch))
    got = opened(tmp_path, tiny_policy).get(batch.examples[0])
    assert (got.video_shape, got.audio_shape) == (seen, heard)
    assert hash(got.video_shape) == hash(seen)


def test_rows_that_came_from_the_cache_are_not_written_again(cache, batch, tiny_policy) -> None:
    made = tiny_policy.encode(batch)
    cached = Features([*made.video[:2], None, None], [made.audio[0], None, None, None])
    cache.put(replace(batch, features=cached), made)
    assert [cache.holds(e) for e in batch.examples] == [False, False, True, True]


def test_a_changed_file_is_another_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    example = Example("a", "?", "happy", "happy", video=path)
    key = clip_key(example)
    assert key == clip_key(replace(example, id="b", question="Why?"))
    (tmp_path / "sub").mkdir()
    assert key == clip_key(replace(example, video=tmp_path / "sub" / ".." / "a.mp4"))
    os.utime(path, ns=(1, 1))
    moved = clip_key(example)
    path.write_bytes(b"abcd")
    os.utime(path, ns=(1, 1))
    longer = clip_key(example)
    sidecar = clip_key(replace(example, audio=path))
    assert len({key, moved, longer, sidecar}) == 4
    assert clip_key(replace(example, video=tmp_path / "gone.mp4")) is None


def test_other_towers_processors_and_dtypes_have_other_folders(tmp_path, tiny_policy) -> None:
    def folders(**options) -> list[Path]:
        return opened(tmp_path, tiny_policy, **options).folders()

    before = folders()
    assert folders() == before
    assert not set(folders(dtype="float32")) & set(before)
    processor = tiny_policy.processor
    tiny_policy.processor = replace(
        processor, settings=replace(processor.settings, image_fit="squash")
    )
    video, audio = folders()
    assert (video == before[0], audio == before[1]) == (False, True)
    tiny_policy.processor = processor
    with torch.no_grad():
        next(tiny_policy.audio_tower.parameters()).add_(1e-3)
    video, audio = folders()
    assert (video == before[0], audio == before[1]) == (True, False)


def test_what_the_language_model_learnt_does_not_matter(tmp_path, tiny_policy) -> None:
    before = opened(tmp_path, tiny_policy).folders()
    with torch.no_grad():
        for weight in tiny_policy.language_model.parameters():
            weight.add_(1)
    assert opened(tmp_path, tiny_policy).folders() == before


def test_weights_hash_sees_values_names_and_dtypes() -> None:
    one = torch.nn.Linear(2, 2)
    before = weights_hash(one)
    assert weights_hash(one.double()) != before
    assert weights_hash(torch.nn.Sequential(one.float())) != before
    assert weights_hash(one) == before
    with torch.no_grad():
        one.bias[0] += 1
    assert weights_hash(one) != before


def test_one_modality_needs_only_its_own_store(tmp_path, tiny_policy, batch) -> None:
    video_only = opened(tmp_path, tiny_policy, {"video": True, "audio": False})
    both = opened(tmp_path, tiny_policy)
    video_only.put(batch, tiny_policy.encode(batch))
    assert video_only.get(batch.examples[0]).audio is None
    assert both.get(batch.examples[0]) is None  # its sound was never encoded
    both.put(batch, tiny_policy.encode(batch))
    assert both.get(batch.examples[0]).audio is not None


@pytest.mark.parametrize("cached_rows", [(), (0,), (1, 2), (0, 1, 2, 3)])
def test_cached_and_fresh_features_stand_in_their_rows(
    cached_rows, batch, tiny_policy, monkeypatch
) -> None:
    whole = tiny_policy.encode(batch)
    towers = tiny_policy.encode
    seen = []

    def noted(part: Batch) -> Features:
        seen.append(part)
        return towers(part)

    monkeypatch.setattr(tiny_policy, "encode", noted)
    got = encode(tiny_policy, without(batch, whole, cached_rows))
    for ours, theirs in zip(got.video + got.audio, whole.video + whole.audio, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs.bfloat16().float(), atol=0.02, rtol=0.01)
            assert ours.dtype == torch.float32
            assert torch.equal(ours, ours.bfloat16().float())  # rounded, fresh ones too
    num_read = sum(clip is not None for clip in seen[0].pixel_values)
    assert num_read == 2 - len({0, 1} & set(cached_rows))


def without(batch: Batch, whole: Features, cached_rows: tuple[int, ...]) -> Batch:
    """The batch as collated when these rows were in the cache."""

    def read(values):
        return [None if row in cached_rows else value for row, value in enumerate(values)]

    def stored(values):
        there = [value if row in cached_rows else None for row, value in enumerate(values)]
        return [None if value is None else value.bfloat16() for value in there]

    return replace(
        batch,
        pixel_values=read(batch.pixel_values),
        input_features=read(batch.input_features),
        features=Features(stored(whole.video), stored(whole.audio)),
        feature_dtype=torch.bfloat16,
    )


def test_features_cached_without_a_shape_have_the_one_that_all_clips_have(tmp_path) -> None:
    """The cache of an earlier version is read: its folder's name and its features are the same."""
    policy = load_policy(str(PREVIOUS / "base"), "float32", None)
    cache = opened(tmp_path, policy)
    examples, keys = {}, {}
    for name, key in read_json(PREVIOUS / "features" / "keys.json").items():
        path = tmp_path / name
        path.write_text(name)
        examples[name] = Example(name, "?", "happy", "happy", video=path)
        keys[key] = clip_key(examples[name])  # a clip is known by its place, which is another here
    stored: dict[str, Tensor] = {}
    for store in (cache.video, cache.audio):
        (then,) = (PREVIOUS / "features").glob(f"{store.about['modality']}_*")
        about = read_json(then / "about.json")
        assert about.keys() == store.about.keys()
        for name in ("version", "dtype", "weights", "num_frames"):
            assert about[name] == store.about[name]
        (shard,) = then.glob("*.safetensors")
        with safe_open(shard, framework="pt") as file:
            tensors = {keys[key]: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            texts = {renamed(name, keys): text for name, text in file.metadata().items()}
        store.folder.mkdir(parents=True)
        save_file(tensors, store.folder / shard.name, metadata=texts)
        stored |= {f"{about['modality']} {key}": tensor for key, tensor in tensors.items()}
    got = {name: cache.get(example) for name, example in examples.items()}
    seen, heard = policy.processor.video_shape, policy.processor.audio_shape
    assert (seen.num_tokens, heard.num_tokens) == (8, 12)
    shapes = {name: (clip.video_shape, clip.audio_shape) for name, clip in got.items()}
    assert shapes == {"both": (seen, heard), "silent": (seen, None), "blind": (None, heard)}
    for name, clip in got.items():
        for kind, tensor in (("video", clip.video), ("audio", clip.audio)):
            then = stored[f"{kind} {clip_key(examples[name])}"]
            assert tensor is None if then.numel() == 0 else torch.equal(tensor, then)
    assert [note.kind for note in got["both"].notes] == ["cut_sound"]
    batch = Collate(policy.processor, False, cache.dtype)(
        [Sample(examples[name], None, clip) for name, clip in got.items()]
    )
    with torch.no_grad():
        features = encode(policy, batch)
    assert [clip is not None for clip in features.video] == [True, True, False]


def renamed(name: str, keys: Mapping[str, str]) -> str:
    """The name of a text in a shard's header, with the key that the clip has here."""
    kind, colon, key = name.rpartition(":")
    return f"{kind}{colon}{keys[key]}"


def test_without_a_cache_features_are_not_rounded(batch, tiny_policy) -> None:
    assert torch.equal(encode(tiny_policy, batch).video[0], tiny_policy.encode(batch).video[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", "int8", "feature_cache.dtype='int8'"),
        ("max_gb", 0.0, "feature_cache.max_gb=0.0"),
        ("max_gb", float("inf"), "feature_cache.max_gb=inf"),
    ],
)
def test_options_out_of_range_are_refused(field, value, message) -> None:
    with pytest.raises(UserError, match=message):
        FeatureCacheConfig(**{field: value})
