"""Options of files beside the schemas (models, readers, loggers, callbacks): each is in a test.

``test_options`` does the same for the schemas and the default files, and ``test_reward_options``
flips the options of every reward.
"""

from __future__ import annotations

import re

import pytest
from flips import FLIPS, is_set_in_a_test
from test_conf import CONF
from test_options import leaves_in

BELOW = r"(dataset\.(label_maps|published_scores|published|folds|layout|annotations))\..+"
"""Keys that a data set chooses: words, counts and names, all read alike."""
FILES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for group in ("model", "model/options", "dataset", "logger", "callbacks")
    for path in (CONF / group).glob("*.yaml")
)


@pytest.mark.parametrize("file", FILES)
def test_every_option_is_in_a_test(file: str) -> None:
    group, _, name = file.rpartition("/")
    options = {re.sub(BELOW, r"\1", leaf) for leaf in leaves_in(group, name)}
    assert [option for option in options - {*FLIPS} if not is_set_in_a_test(option)] == []


def test_an_option_that_no_test_sets_is_found() -> None:
    option = "stage." + "_".join(["nobody", "tested", "this"])
    assert not is_set_in_a_test(option)
    assert is_set_in_a_test("stage.max_bad_steps")
