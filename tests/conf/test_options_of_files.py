"""Options of files beside the schemas (models, readers, trackers, callbacks): each has a test that
shows what it does, and the files that are named as such tests exist and speak of it.

``test_options`` flips the options of schemas and of the default files, ``test_reward_options``
those of every reward. Here stands where the rest is flipped; a new option without a line fails.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flips import BUILT, ELSEWHERE, FLIPS
from test_conf import CONF
from test_options import leaves_in

TESTS = Path(__file__).parents[1]
KEPT_BY_DATASET = r"dataset\.(label_maps|published_scores|published|folds|layout|annotations)\..+"
"""Below keys whose own row stands in ``flips``: words, counts and choices, all read alike."""
READER = r"dataset\.splits\.[^.]+\."
SHOWN = {
    READER + "annotations": "conf/test_options_built.py",
    READER + "root": "conf/test_options_built.py",
    READER + "labels": "data/test_r1_omni_reader.py",
    READER + "form": "data/test_forms.py",
    READER + "seed": "data/test_synthetic.py",
    READER + "split": "data/official_trees.py",
    READER + "(fold|folds)": "data/test_listed.py",
    READER + "(num_folds|num_digits|grain)": "data/test_reader_options.py",
    READER + r"labels\.(words|base)": "data/test_listed.py",
    READER + "question": "data/test_listed.py",
    READER + "(lists|clips)": "data/test_listed.py",
    READER + "(sound|target|video|test_actors)": "data/test_official.py",
    READER + "(num_clips|num_workers)": "data/test_synthetic.py",
    r"model\.parts\.(\w+_tower|language_model|gate_bert)": "fixtures/cases/case_parts.py",
    r"model\.parts\.\w+": "models/test_compose.py",
    r"model\.options\.(allow_pickle|gate_vocab)": "models/test_published.py",
    r"model\.options\.mask_stops": "rollout/test_stops.py",
    r"model\.options\.num_frames": "models/test_humanomni.py",
    r"model\.options\.(image_fit|wording|media_end|stray_vision_tokens|gate_text|bert_dropout)": (
        "models/test_humanomni.py"
    ),
    r"model\.options\.reset_gate": "models/test_humanomni.py",
    r"logger\.\w+\.\w+": "training/test_trackers.py",
    r"logger\.trackio\.\w+": "training/test_trackio_sink.py",
    r"callbacks\.probe\.\w+": "tasks/test_probe.py",
    r"callbacks\.(progress|completions_table)\.\w+": "training/test_callback_options.py",
}
"""Pattern of options -> the test that shows what they do."""
FILES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for group in ("model", "model/options", "dataset", "logger", "callbacks")
    for path in (CONF / group).glob("*.yaml")
)


@pytest.mark.parametrize("file", FILES)
def test_every_option_has_a_test_that_shows_it(file: str) -> None:
    group, _, option = file.rpartition("/")
    for leaf in leaves_in(group, option):
        if leaf in {*FLIPS, *BUILT, *ELSEWHERE}:
            continue
        if re.fullmatch(KEPT_BY_DATASET, leaf):
            assert ".".join(leaf.split(".")[:2]) in {*FLIPS, *BUILT, *ELSEWHERE}, leaf
            continue
        places = [place for pattern, place in SHOWN.items() if re.fullmatch(pattern, leaf)]
        assert places, f"{leaf} of conf/{file}.yaml has no test that flips it"
        assert any(speaks_of(place, leaf) for place in places), f"{places} do not name {leaf}"


@pytest.mark.parametrize("option", ELSEWHERE)
def test_a_test_that_is_named_exists(option: str) -> None:
    for name in re.findall(r"[\w/]+\.py", ELSEWHERE[option]):
        assert (TESTS / name).exists(), f"{option}: {name}"


def speaks_of(place: str, leaf: str) -> bool:
    """Whether a test has the last part of an option's key as a word, or as a word's end."""
    return re.search(rf"(\b|_){leaf.split('.')[-1]}\b", (TESTS / place).read_text()) is not None
