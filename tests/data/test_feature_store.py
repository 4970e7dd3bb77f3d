"""Shards on disk: what goes in comes out, damage and full disks cost time and never a run."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest
import torch

from omni_rlvr.data.features.store import FeatureStore, checksum

A = torch.arange(6.0).view(2, 3).to(torch.bfloat16)
B = torch.full((3, 2), -1.5, dtype=torch.bfloat16)


def store(folder: Path, *, max_bytes: int = 10**9) -> FeatureStore:
    return FeatureStore(folder, {"modality": "video"}, max_bytes=max_bytes)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_what_goes_in_comes_out_here_and_in_another_process_view(tmp_path: Path) -> None:
    here, there = store(tmp_path / "s"), store(tmp_path / "s")
    assert there.get("a") is None  # looked before anything was written
    here.add({"a": A, "none": torch.zeros(0)})
    for one in (here, there):
        got = one.get("a")
        assert got is not None
        assert torch.equal(got, A)
        assert got.dtype == torch.bfloat16
        none = one.get("none")
        assert none is not None
        assert none.numel() == 0
        assert one.get("b") is None
        assert "b" not in one
    there.add({"b": B})
    assert torch.equal(here.get("b"), B)


def test_a_key_is_written_once(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add({"a": A})
    one.add({"a": B})
    assert len(shards(tmp_path)) == 1
    assert torch.equal(one.get("a"), A)


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    store(tmp_path / "s").add({"a": A})
    assert '"modality": "video"' in (tmp_path / "s" / "about.json").read_text()


@pytest.mark.parametrize("damage", ["cut short", "one byte", "not safetensors", "empty"])
def test_a_damaged_shard_is_removed_and_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path).add({"a": A, "b": B})
    shard = shards(tmp_path)[0]
    content = bytearray(shard.read_bytes())
    if damage == "cut short":
        content = content[:-3]
    elif damage == "one byte":
        content[-1] ^= 1
    else:
        content = bytearray(b"hello" if damage == "not safetensors" else b"")
    shard.write_bytes(content)
    again = store(tmp_path)
    # the changed byte lies in one of the two tensors: only reading that one can tell
    assert any(again.get(key) is None for key in ("a", "b"))
    assert f"{shard} is damaged" in caplog.text
    assert not shard.exists()
    assert again.get("a") is None
    again.add({"a": A})  # rebuilt
    assert torch.equal(store(tmp_path).get("a"), A)


def test_a_shard_that_another_process_removed_is_a_miss(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add({"a": A})
    shards(tmp_path)[0].unlink()
    assert one.get("a") is None
    assert "a" not in one


def test_a_full_store_says_so_once_and_goes_on_reading(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path, max_bytes=A.numel() * 2 + 400)
    one.add({"a": A})
    for name in "bcd":
        one.add({name: B.repeat(100, 1)})
    assert [one.get(name) is None for name in "abcd"] == [False, True, True, True]
    assert caplog.text.count("is full") == 1
    assert "feature_cache.max_gb" in caplog.text


def test_the_limit_counts_what_others_wrote(tmp_path: Path) -> None:
    store(tmp_path).add({"a": A.repeat(100, 1)})
    other = store(tmp_path, max_bytes=1000)
    other.add({"b": B})
    assert "b" not in store(tmp_path)


def test_a_full_disk_is_said_once_and_leaves_no_half_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    one = store(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    one.add({"a": A})
    one.add({"b": B})
    assert caplog.text.count("No space left on device") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["about.json"]
    assert one.get("a") is None


def test_a_folder_that_cannot_be_made_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    one = store(tmp_path / "file" / "s")
    with caplog.at_level(logging.WARNING):
        one.add({"a": A})
    assert "cannot be written" in caplog.text


def write_some(folder: Path, first: int) -> None:
    one = store(folder)
    for i in range(first, first + 20):
        one.add({f"k{i}": torch.full((4,), float(i))})


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(tmp_path, n)) for n in (0, 10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    one = store(tmp_path)
    for i in range(40):
        assert one.get(f"k{i}").tolist() == [float(i)] * 4
    assert not list(tmp_path.glob(".*"))


def test_checksum_sees_every_byte() -> None:
    other = A.clone()
    other[1, 2] += 1
    assert checksum(A) != checksum(other)
    assert checksum(A) == checksum(A.t().contiguous().t())
