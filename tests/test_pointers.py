"""``latest`` and ``checkpoint`` as links, as files, as what copies make of them, and as nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from omni_rlvr.folders import write_sums
from omni_rlvr.lock import FolderInUse, FolderLock
from omni_rlvr.pointers import clear_way, follow, point_to, problem, run_of, whole_before
from omni_rlvr.types import UserError

RUN = "2026-01-31_12-00-00"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an experiment with one run, its pointers not made yet."""
    home = tmp_path / "rlvr"
    for step in (10, 20):
        folder = home / RUN / "checkpoints" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(step))
        write_sums(folder)
    (home / RUN / "run.json").write_text(json.dumps({"started": "2026-01-31T12:00:00"}))
    return home


@pytest.fixture(params=["EPERM", "ENOTSUP", "no number", "another thing made"])
def no_links(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that makes no symbolic links."""

    def refuse(source, link, target_is_directory: bool = False) -> None:
        if request.param == "another thing made":
            Path(link).write_text("XSym")
            return
        if request.param == "no number":
            raise OSError("not here")
        raise OSError(vars(errno)[request.param], "not here", link)

    monkeypatch.setattr(os, "symlink", refuse)


def point_both(home: Path) -> None:
    """Makes both pointers, as a run does."""
    point_to(home / RUN / "checkpoint", home / RUN / "checkpoints" / "step_000010")
    point_to(home / RUN / "checkpoint", home / RUN / "checkpoints" / "step_000020")
    point_to(home / "latest", home / RUN)


def weights(home: Path) -> str:
    return (follow(home / "latest" / "checkpoint") / "weights").read_text()


def test_links_are_relative_and_lead_on_after_a_move(home: Path) -> None:
    point_both(home)
    assert (home / "latest").readlink() == Path(RUN)
    assert weights(home) == "20"
    moved = home.rename(home.with_name("moved"))
    assert weights(moved) == "20"


def test_without_links_a_small_file_leads_on(home: Path, no_links: None) -> None:
    point_both(home)
    assert (home / "latest").read_text() == f"{RUN}\n"
    assert (home / RUN / "checkpoint").read_text() == "checkpoints/step_000020\n"
    assert sorted(path.name for path in home.iterdir()) == [RUN, "latest"]  # nothing half made
    assert weights(home) == "20"
    assert run_of(home / "latest" / "checkpoint") == home / RUN
    moved = home.rename(home.with_name("moved"))
    assert weights(moved) == "20"


@pytest.mark.parametrize(
    "text", ["/home/other/outputs/rlvr/" + RUN, "C:\\runs\\" + RUN, RUN, f"./{RUN}/"]
)
@pytest.mark.parametrize("as_link", [True, False])
def test_a_pointer_of_another_machine_leads_to_the_folder_beside_it(
    home: Path, text: str, as_link: bool
) -> None:
    if as_link:
        (home / "latest").symlink_to(text)
    else:
        (home / "latest").write_text(text)
    (home / RUN / "checkpoint").write_text("/gone/checkpoints/step_000010\r\n")
    assert weights(home) == "10"


@pytest.mark.parametrize("left", ["nothing", "a dangling link", "an empty file"])
def test_a_lost_pointer_to_the_checkpoint_is_said_and_the_newest_taken(
    home: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    point_to(home / "latest", home / RUN)
    if left == "a dangling link":
        (home / RUN / "checkpoint").symlink_to("checkpoints/step_000030")
    elif left == "an empty file":
        (home / RUN / "checkpoint").touch()
    assert weights(home) == "20"
    assert "checkpoint leads nowhere" in caplog.text
    assert "step_000020, the newest one there" in caplog.text


def test_a_pointer_to_nothing_is_named(home: Path) -> None:
    (home / "latest").symlink_to("2025-01-01_00-00-00")
    assert not follow(home / "latest" / "checkpoint").exists()
    wanted = f"; {home}/latest leads to 2025-01-01_00-00-00, and there is no such folder"
    assert problem(home / "latest" / "checkpoint") == wanted
    assert problem(home / RUN) == ""


def test_a_folder_in_the_way_becomes_a_run_and_stays_the_latest(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home / RUN, home / "latest")  # as scp -r does
    new = home / "2026-02-01_00-00-00"
    new.mkdir()
    clear_way(home / "latest", new)
    assert (home / "latest").readlink() == Path(f"{RUN}_1")  # until the new run has a checkpoint
    assert (home / f"{RUN}_1" / "run.json").exists()
    assert "was a folder" in caplog.text
    point_to(home / "latest", new)
    assert (home / "latest").resolve() == new.resolve()


def test_a_run_that_goes_on_in_its_copy_needs_no_pointer(home: Path) -> None:
    (home / RUN).rename(home / "latest")
    clear_way(home / "latest", home / "latest")
    point_to(home / "latest", (home / "latest").resolve())
    assert [path.name for path in home.iterdir()] == ["latest"]


def test_a_copy_in_which_a_run_is_alive_is_not_moved(home: Path) -> None:
    (home / RUN).rename(home / "latest")
    with FolderLock(home / "latest", ""):
        owner = home / "latest" / ".owner"
        owner.write_text(owner.read_text().replace('"host": "', '"host": "other-'))
        with pytest.raises(FolderInUse):
            clear_way(home / "latest", home)
    assert (home / "latest").is_dir()


@pytest.mark.parametrize("content", ["two\nlines", "\0", "x" * 5000])
def test_a_file_that_is_no_pointer_is_not_touched(home: Path, content: str) -> None:
    (home / "latest").write_text(content)
    with pytest.raises(UserError, match=r"latest is in the way: .* move that file elsewhere"):
        clear_way(home / "latest", home / RUN)
    assert (home / "latest").read_text() == content


def test_what_a_stopped_process_left_half_made_goes(home: Path) -> None:
    old = time.time() - 3600
    (home / ".latest.123").symlink_to(RUN)
    os.utime(home / ".latest.123", (old, old), follow_symlinks=False)
    (home / ".latest.124").symlink_to(RUN)  # another process is at it
    clear_way(home / "latest", home / RUN)
    assert sorted(p.name for p in home.iterdir()) == [".latest.124", RUN]


def test_a_place_where_nothing_can_be_made_is_said_before_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"latest cannot be written: Read-only .* paths\.output_ro"):
        clear_way(home / "latest", home / RUN)
    assert [path.name for path in home.iterdir()] == [RUN]


def test_the_whole_one_before_is_found(home: Path) -> None:
    ten, twenty = sorted((home / RUN / "checkpoints").iterdir())
    assert whole_before(twenty) == ten
    (ten / "weights").write_text("11")
    assert whole_before(twenty) is None
    assert whole_before(home) is None
