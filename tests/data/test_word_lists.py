"""Every data set's label word lists: R1-Omni's words, the release's, and how one is chosen."""

from __future__ import annotations

import pytest
from every_case import every_case
from official_trees import composed

from omni_rlvr.data.annotations.labels import LabelMap

OFFICIAL = {
    "dfew": "Happy Sad Neutral Angry Surprise Disgust Fear",
    "mafw": "anger disgust fear happiness neutral sadness surprise contempt anxiety helplessness "
    "disappointment",
    "ravdess": "neutral calm happy sad angry fearful disgust surprised",
    "mer2023": "neutral angry happy sad worried surprise",
    "merr": "neutral angry happy sad worried surprise fear contempt doubt",
    "cremad": "anger disgust fear happy neutral sad",
    "meld": "neutral surprise fear sadness joy disgust anger",
}
R1_OMNI = {
    "dfew": "happy sad neutral angry surprise disgust fear",
    "mafw": "angry disgust fear happy neutral sad surprise contemptuous anxious helpless "
    "disappointed",
    "ravdess": "neutral calm happy sad angry fear disgust surprise",
    "cremad": "angry disgust fear happy neutral sad",
    "meld": "neutral surprise fear sad happy disgust angry",
}
"""Facts of the paper's code for DFEW, MAFW and RAVDESS; the same words for the others."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        *((name, "official", expected) for name, expected in OFFICIAL.items()),
        *((name, "r1_omni", expected) for name, expected in R1_OMNI.items()),
        ("ravdess", "calm_merged", "neutral happy sad angry fear disgust surprise"),
    ],
)
def test_words_are_chosen_by_name(name: str, words: str, expected: str) -> None:
    dataset = composed(f"dataset={name}", "dataset.root=x", f"dataset.words={words}").dataset
    assert list(dataset.labels) == expected.split()
    for split in dataset.splits.values():
        assert LabelMap(split.labels.words, None).ours == expected.split()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_the_default_is_r1_omnis_where_there_is_one(name: str) -> None:
    dataset = composed(f"dataset={name}", "dataset.root=x").dataset
    assert dataset.words == ("r1_omni" if name in R1_OMNI else "official")


@pytest.mark.slow  # many configs are composed
@every_case("name", sorted(OFFICIAL))
def test_maps_are_of_the_same_official_labels_in_one_order(name: str) -> None:
    """Class numbers count in a map's order: it may not depend on the words."""
    maps = composed(f"dataset={name}", "dataset.root=x").dataset.label_maps.values()
    assert len({tuple(label_map) for label_map in maps}) == 1
