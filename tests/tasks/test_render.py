"""Answers as HTML: text from outside stays text, bars have the sizes of their numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from omni_rlvr.tasks.predict import Prediction
from omni_rlvr.tasks.serve import render
from omni_rlvr.tasks.serve.answers import Answer, Game
from omni_rlvr.text.modality_words import Lexicon

if TYPE_CHECKING:
    from playwright.sync_api import Page

LEXICON = Lexicon(["brows", "mouth"], ["voice"])
EVIL = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>&\'"'
SAID = Answer(
    Prediction(
        id="",
        completion="<think>The brows are low. A loud voice.</think>\n<answer>angry</answer>",
        think="The brows are low. A loud voice.",
        answer="angry",
        predicted="angry",
        probabilities={"happy": 0.25, "angry": 0.75},
        list_probability=0.9,
        scored_after="completion",
        answer_form="tags",
        has_video=True,
        has_audio=True,
        truncated=False,
    ),
    Game(
        "angry",
        {"none": 0.5, "audio": 0.4, "video": 0.85, "both": 0.75},
        {"audio": -0.1, "video": 0.35},
    ),
)
HOW = {"value": "prob", "lead": "own_reasoning", "absent": "drop"}


class Reader(HTMLParser):
    """Collects tags and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def said(**changes) -> str:
    prediction = replace(SAID.prediction, **changes)
    return render.answer(Answer(prediction, SAID.game), LEXICON, **HOW)


def test_html_from_outside_is_text() -> None:
    evil = Answer(
        replace(
            SAID.prediction,
            completion=f"<think>{EVIL}</think><answer>{EVIL}</answer>",
            answer=EVIL,
            predicted=None,
            probabilities={EVIL: 1.0},
        ),
        replace(SAID.game, label=EVIL),
    )
    for html in (
        render.answer(evil, LEXICON, **HOW),
        render.reasoning(EVIL, LEXICON, busy=True),
        render.message(EVIL, kind="error"),
        render.panel(EVIL, ""),
        render.waiting(EVIL),
    ):
        seen = Reader(html)
        assert not seen.tags & {"img", "script"}
        assert "<img src=x onerror=" in seen.text


def test_html_from_outside_does_not_run(browser_page: Page) -> None:
    html = render.panel(EVIL, render.reasoning(EVIL, LEXICON) + render.message(EVIL, kind="note"))
    browser_page.set_content(html)
    assert browser_page.evaluate("window.ran") is None
    assert browser_page.inner_text(".reasoning") == EVIL


def test_control_characters_are_replaced() -> None:
    assert "\x1b" not in render.reasoning("a\x1b[2Jb", LEXICON) + render.message(
        "\x1b", kind="note"
    )


def test_phrases_have_the_colour_of_their_modality() -> None:
    html = said()
    assert '<mark class="visual counted">brows</mark>' in html
    assert '<mark class="visual"> are low</mark>' in html
    assert '<mark class="vocal counted">voice</mark>' in html
    assert '<span class="tag">&lt;think&gt;</span>' in html
    assert Reader(html).text.count("The brows are low. A loud voice.") == 1


def test_labels_come_the_likeliest_first_with_bars_of_their_size() -> None:
    labels = said().split('class="bars labels"')[1].split("</p>")[0]
    assert re.findall(r'class="name">(\w+)<', labels) == ["angry", "happy"]
    assert re.findall(r"width:([\d.]+)%", labels) == ["75.00", "25.00"]


def test_shapley_bars_point_to_the_side_that_they_speak_for() -> None:
    html = said().split('class="bars shapley"')[1].split('<p class="caption"')[0]
    rows = re.findall(
        r'data-player="(\w+)".*?fill (\w+) (\w+)" style="width:([\d.]+)%.*?number">(.*?)<', html
    )
    assert rows == [  # half a bar is one: 0.35 of 1 is 17.5 %
        ("picture", "visual", "for", "17.50", "+35.0 points"),
        ("sound", "vocal", "against", "5.00", "-10.0 points"),
    ]
    nats = replace(SAID.game, phi={"audio": -4.0, "video": 2.0})
    html = render.answer(Answer(SAID.prediction, nats), LEXICON, **{**HOW, "value": "log_prob"})
    html = html.split('class="bars shapley"')[1].split('<p class="caption"')[0]
    assert re.findall(r"width:([\d.]+)%", html) == ["25.00", "50.00"]  # the widest fills its side
    assert "-4.00 nats" in html


@pytest.mark.parametrize(
    ("there", "rows", "note"),
    [
        ({}, ["neither", "sound", "picture", "both"], ""),
        ({"has_audio": False}, ["neither", "picture"], "No sound was shown"),
        ({"has_video": False}, ["neither", "sound"], "No picture was shown"),
    ],
)
def test_what_is_not_there_has_no_bar(there: dict, rows: list[str], note: str) -> None:
    html = said(**there)
    subsets = html.split('class="bars subsets"')[1]
    assert re.findall(r'class="name">(\w+)<', subsets) == rows
    assert note in html
    assert html.count("data-player=") == len(rows) // 2


def test_an_answer_that_is_odd_says_so() -> None:
    long = said(answer="a" * 99, predicted=None, truncated=True)
    assert "not one of the labels" in long
    assert "cut short by task.max_completion_length" in long
    assert f"<b>{'a' * 60}…</b>" in long
    assert "for “angry”, the likeliest label" in long
    assert "the likeliest label" not in said()
    assert "<b>none given</b>" in said(answer=None, predicted=None)
    assert "from picture and sound" in said()
    for lead, words in render.LEADS.items():
        assert words in unescape(render.answer(SAID, LEXICON, **{**HOW, "lead": lead}))
    for absent, words in render.ABSENT.items():
        assert words in render.answer(SAID, LEXICON, **{**HOW, "absent": absent})


def test_a_checkpoint_is_named_by_its_run() -> None:
    assert render.title("outputs/rlvr/2026-01-01/checkpoint") == "rlvr/2026-01-01"
    assert render.title("StarJiaxing/R1-Omni-0.5B") == "StarJiaxing/R1-Omni-0.5B"
    assert render.title("/checkpoint") == "/checkpoint"
