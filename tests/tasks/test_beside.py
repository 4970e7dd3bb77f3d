"""Our scores beside the published ones: every number is there, and fold and labels are said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.tasks.evaluate import published_markdown
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

SCORES = {
    "test": {
        "war": 61.234,
        "uar": 50.0,
        "weighted_f1": 60.0,
        "war_ci": [59.2, 63.1],
        "num_clips": 2341,
    }
}


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


# R1-Omni, table 1: WAR and UAR of R1-Omni and of HumanOmni-0.5B
@pytest.mark.parametrize(
    ("name", "numbers", "labels"),
    [
        ("dfew", ("65.83", "56.27", "22.64", "19.44", "2,341"), "7 labels: happy, sad, neutral"),
        ("mafw", ("57.68", "40.04", "20.18", "13.52", "1,477"), "11 labels"),
        ("ravdess", ("43.00", "44.69", "7.33", "9.38", "300"), "8 labels"),
    ],
)
def test_the_table_of_a_data_set(name: str, numbers: tuple[str, ...], labels: str) -> None:
    overrides = ["+experiment=r1_omni/evaluate", f"dataset={name}", "dataset.root=clips"]
    cfg = compose("config", overrides=[*overrides, "model.path=DIR"])
    text = published_markdown(SCORES, check(cfg)[1]["dataset"])
    for number in (*numbers, "**61.23** [59.2, 63.1]", "50.00", "fold 1 of", labels):
        assert number in text
    assert "arXiv 2503.05379" in text
    assert "60.00 |" in text
    assert (
        "published WAR of less than 1.9 points on test may be chance" in text
    )  # (63.1 - 59.2) / 2


def test_a_score_that_is_no_pair_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.published_scores.X=\[1.0\]"):
        DatasetConfig(published_scores={"X": [1.0]})


def test_counts_and_scores_are_told_apart() -> None:
    text = (Path(conf_dir()) / "dataset" / "dfew.yaml").read_text()
    assert {"published", "published_scores"} <= yaml.safe_load(text).keys()
