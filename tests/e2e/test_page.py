"""From a model to the page: task=attribute writes out chosen clips, task=report shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.attribute.selection import CONFLICT, RULES
from omni_rlvr.types import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

ATTRIBUTE = (
    "task=attribute",
    "task.splits=[train]",
    "task.max_completion_length=8",
    "task.num_resamples=20",
    "model.instruction='in <answer> </answer> tags'",
    "+reward.terms.length._target_=test_page.length",
    "+reward.terms.length._partial_=true",
    "+reward.weights.length=1",
)
FILES = ("chosen.jsonl", "completions.jsonl")


def length(completion: str, example) -> float:
    """A reward that a random model earns."""
    return len(completion) % 7 / 7


@pytest.fixture(scope="module")
def mixed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve clips and a silent one, whose id is HTML."""
    rows = json.loads((clips / "train.json").read_text())
    rows.append({**rows[1], "video": "silent.mp4", "id": "<img src=x onerror=alert(1)>"})
    file = tmp_path_factory.mktemp("mixed") / "mixed.json"
    file.write_text(json.dumps(rows))
    return [f"dataset.annotations.train={file}", f"dataset.root={clips}"]


@pytest.fixture(scope="module")
def attributed(make_runner, mixed) -> Path:
    """A run that chose one clip by each rule, with three samples each."""
    return make_runner()(*ATTRIBUTE, *mixed, "task.num_chosen=1", "task.num_generations=3")


def test_chosen_clips_are_written_out(attributed: Path, clips: Path) -> None:
    chosen = read_jsonl(attributed / "train" / "chosen.jsonl")
    assert {rule for row in chosen for rule in row["rules"]} == {*RULES}
    table = pd.read_parquet(attributed / "train" / "attribution.parquet").set_index("clip")
    spread = pd.read_parquet(attributed / "train" / "distributions.parquet")
    both = spread[spread.subset == "both"].set_index("clip")
    labels = read_json(attributed / "train" / "attribution.json")["labels"]
    for row in chosen:
        assert Path(row["video"]).is_file()
        assert row["confidence"] == pytest.approx(both.loc[row["id"], labels].max())
        if RULES[0] in row["rules"]:
            assert table.loc[row["id"]].predicted == table.loc[row["id"]].label


def test_samples_have_rewards_and_advantages_of_their_group(attributed: Path) -> None:
    chosen = read_jsonl(attributed / "train" / "chosen.jsonl")
    rows = pd.DataFrame(read_jsonl(attributed / "train" / "completions.jsonl"))
    assert rows.groupby("id").size().to_dict() == {row["id"]: 3 for row in chosen}
    assert rows.reward.tolist() == pytest.approx((rows["rewards/length"]).tolist())
    for _, group in rows.groupby("id"):
        centred = group.reward - group.reward.mean()
        expected = centred / (group.reward.std() + 1e-4) if group.reward.nunique() > 1 else centred
        assert group.advantage.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert rows.completion.nunique() > len(chosen)  # sampled, not greedy


def test_options_of_the_choice_do_what_they_say(runner, mixed) -> None:
    none = runner(*ATTRIBUTE, *mixed, "task.max_clips=3") / "train"
    assert not [name for name in FILES if (none / name).exists()]
    assert runner.build(*ATTRIBUTE, *mixed)[0].reward is None
    few = runner(*ATTRIBUTE, *mixed, "task.num_chosen=2", "task.num_generations=0") / "train"
    chosen = read_jsonl(few / "chosen.jsonl")
    assert sum(CONFLICT in row["rules"] for row in chosen) == 2
    assert not (few / "completions.jsonl").exists()
    cold, hot = (
        runner(*ATTRIBUTE, *mixed, "task.max_clips=3", "task.num_chosen=1", f"task.temperature={t}")
        for t in (0.01, 5)
    )
    texts = [{r["completion"] for r in read_jsonl(f / "train" / FILES[1])} for f in (cold, hot)]
    assert len(texts[0]) < len(texts[1])


def test_the_page_shows_them(
    runner, attributed: Path, browser_page: Page, expect: Callable
) -> None:
    folder = runner("task=report", f"runs={attributed}", "+html=true")
    assert read_json(folder / "run.json")["status"] == "finished"
    browser_page.goto((folder / "modalities.html").as_uri())
    chosen = read_jsonl(attributed / "train" / "chosen.jsonl")
    expect(browser_page.locator("#status")).to_have_text(f"{len(chosen)} of {len(chosen)} clips")
    browser_page.locator(".open").first.click()
    expect(browser_page.locator(".samples tbody tr")).to_have_count(3)


def test_a_silent_clip_named_in_html_is_shown_as_text(
    runner, mixed, browser_page: Page, caplog, expect: Callable
) -> None:
    run = runner(*ATTRIBUTE, *mixed, "task.num_chosen=13")
    page = runner("task=report", f"runs={run}", "html=true") / "modalities.html"
    browser_page.goto(page.as_uri())
    silent = browser_page.locator(".open", has_text="<img src=x onerror=alert(1)>")
    silent.click()
    expect(browser_page.locator(".card")).to_contain_text("This clip has no sound track.")
    assert "shown without its file" not in caplog.text


def test_runs_without_attribution_and_without_the_option_are_refused(
    runner, attributed: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="html=true makes a page of runs of task=attribute"):
        runner("task=report", f"runs={tmp_path}", "html=true")
    with pytest.raises(UserError, match=r"for runs of task=attribute, .html=true makes a page"):
        runner("task=report", f"runs={attributed}")
