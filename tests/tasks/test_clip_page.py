"""The page of what each modality did, driven by a browser; every console error fails a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from make_attribution import LABELS, SAID, Made, blocks, make_attribution

from omni_rlvr.tasks.attribute.page.clip_page import write_clip_page
from omni_rlvr.tasks.attribute.selection import CONFLICT, RIGHT, RULES
from omni_rlvr.types import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

RUN_ME = "window.hacked = true"
HOSTILE = (
    f"</think></script><script>{RUN_ME}</script><img src=x onerror='{RUN_ME}'>"
    f"<svg onload={RUN_ME}>\u2028<!--<script>"
)


def page_of(tmp_path: Path, *clips: Made, **how) -> Path:
    make_attribution(tmp_path / "run", clips, **how)
    path = tmp_path / "page.html"
    write_clip_page(path, [str(tmp_path / "run")])
    return path


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of twelve clips, clip10 and clip11 without sound and without picture."""
    clips = [Made(f"clip{i}", said=SAID.format(LABELS[i % 3])) for i in range(10)]
    odd = [Made("clip10", sound=False), Made("clip11", picture=False)]
    return page_of(tmp_path_factory.mktemp("twelve"), *clips, *odd)


@pytest.fixture
def shown(browser_page: Page, twelve: Path) -> Page:
    browser_page.goto(twelve.as_uri())
    return browser_page


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".line:visible .open").all_inner_texts()]


def test_the_page_needs_nothing_beside_it(
    twelve: Path, browser_page: Page, expect: Callable
) -> None:
    asked: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(twelve.as_uri())
    for i in range(3):
        browser_page.locator(".open").nth(i).click()
    expect(browser_page.locator(".card")).to_have_count(3)
    outside = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert outside == [twelve.as_uri()]


def test_a_card_holds_what_was_measured(shown: Page, twelve: Path, expect: Callable) -> None:
    row = blocks(twelve.read_text())["rows"]["rows"][0]
    shown.locator(".open").first.click()
    card = shown.locator(".card")
    assert card.get_attribute("aria-label") == f"Clip {row['clip']}"
    titles = card.locator("h3").all_inner_texts()
    assert titles[:2] == ["Clip", "Reasoning"]
    assert titles[-2:] == ["Shapley values", "2 sampled completions"]
    assert card.locator(".said .visual.counted").all_inner_texts() == ["face", "brows"]
    assert card.locator(".said .vocal.counted").all_inner_texts() == ["voice", "pitch"]
    assert card.locator(".probs tbody tr").count() == len(LABELS)
    expect(card.locator(".game").first.locator("b")).to_have_text(
        f"{row['phi_video']:+.2f}".replace("-", "−")
    )
    first = card.locator(".samples tbody tr").first
    assert first.locator("td").all_inner_texts()[:3] == ["0.00", "0.00", "−0.50"]
    assert "raised brows" in card.inner_text()
    assert card.locator(".film, .mel").evaluate_all(
        "images => images.every(image => image.complete && image.naturalWidth > 100)"
    )


def test_the_clip_plays(shown: Page) -> None:
    shown.locator(".open", has_text=re.compile("^clip1$")).click()
    video = shown.locator(".card video")
    ready = "v => new Promise(r => { if (v.duration) r(); else v.onloadeddata = r; })"
    video.evaluate(ready)
    assert video.evaluate("v => v.duration") == pytest.approx(1.0, abs=0.15)
    played = (
        "v => new Promise(r => { v.muted = true; v.onended = () => r(v.currentTime); v.play(); })"
    )
    assert video.evaluate(played) == pytest.approx(1.0, abs=0.15)
    assert video.evaluate("v => v.error") is None


def test_a_clip_without_sound_and_one_without_picture(shown: Page, expect: Callable) -> None:
    shown.locator(".open", has_text="clip10").click()
    card = shown.locator(".card")
    expect(card).to_contain_text("This clip has no sound track.")
    assert card.locator("video").count() == 1
    shown.locator(".open", has_text="clip10").click()
    shown.locator(".open", has_text="clip11").click()
    expect(card).to_contain_text("This clip has no picture.")
    expect(card).to_contain_text("The clip has one modality only.")
    assert (card.locator("audio").count(), card.locator("video").count()) == (1, 0)


def test_columns_sort_and_say_so(shown: Page) -> None:
    values = shown.locator(".line .col-confidence")
    head = shown.locator("th.col-confidence")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    down = [float(text) for text in values.all_inner_texts()]
    assert down == sorted(down, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in values.all_inner_texts()] == down[::-1]
    shown.locator("th.col-clip button").click()
    assert names(shown) == [f"clip{i}" for i in range(12)]  # as numbers: 2 before 10
    assert shown.locator("[aria-sort]").count() == 1
    conflict = shown.locator("th.col-conflict button")
    for _ in range(2):  # what has none comes last, either way
        conflict.click()
        assert shown.locator(".line .col-conflict").all_inner_texts()[-2:] == ["–", "–"]


def test_filters_narrow_the_list(shown: Page, twelve: Path, expect: Callable) -> None:
    rows = blocks(twelve.read_text())["rows"]["rows"]
    status = shown.locator("#status")
    expect(status).to_have_text("12 of 12 clips")
    shown.get_by_role("combobox", name="Gold class").select_option("sad")
    assert {*names(shown)} == {r["clip"] for r in rows if r["label"] == "sad"}
    shown.get_by_role("combobox", name="Label list says").select_option("wrong")
    assert {*names(shown)} == {r["clip"] for r in rows if r["label"] == "sad" and not r["right"]}
    shown.get_by_role("button", name="Clear").click()
    expect(status).to_have_text("12 of 12 clips")
    shown.get_by_role("combobox", name="Chosen as").select_option(RIGHT)
    assert {*names(shown)} == {r["clip"] for r in rows if RIGHT in r["rules"]}
    shown.get_by_role("button", name="Clear").click()
    shown.get_by_label("Search").fill("CLIP1 raised")
    assert {*names(shown)} == {"clip1", "clip10", "clip11"}
    shown.get_by_label("Search").fill("nothing has this")
    expect(status).to_have_text("0 of 12 clips")


def test_a_card_is_opened_and_left_by_keyboard(shown: Page, expect: Callable) -> None:
    shown.keyboard.press("Tab")
    expect(shown.get_by_text("Skip to the clips")).to_be_focused()
    shown.keyboard.press("Enter")
    for _ in range(40):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.classList.contains('open')"):
            break
    first = shown.locator(".open").first
    expect(first).to_be_focused()
    shown.keyboard.press("ArrowDown")
    expect(shown.locator(".open").nth(1)).to_be_focused()
    shown.keyboard.press("ArrowUp")
    shown.keyboard.press("Enter")
    expect(shown.locator(".card")).to_be_visible()
    assert first.get_attribute("aria-expanded") == "true"
    shown.keyboard.press("Tab")
    assert shown.evaluate("!!document.activeElement.closest('.card')")  # into the player
    shown.keyboard.press("Escape")
    expect(shown.locator(".card")).to_have_count(0)
    expect(first).to_be_focused()


INKS = """() => {
    const colour = (node, which) => getComputedStyle(node)[which].match(/[\\d.]+/g).map(Number);
    const bare = node => (colour(node, "backgroundColor")[3] ?? 1) === 0;
    const names = [".soft", ".visual", ".vocal", ".card", "nav a", ".mark", "thead button"];
    return names.map(name => {
        const node = document.querySelector(name);
        let ground = node;
        while (bare(ground)) ground = ground.parentElement;
        return [name, colour(node, "color"), colour(ground, "backgroundColor")];
    });
}"""
"""Each kind of text with its colour and that of what is behind it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(shown: Page, scheme: str) -> None:
    shown.emulate_media(color_scheme=scheme)
    shown.locator(".open").first.click()
    found = shown.evaluate(INKS)
    for name, ink, ground in found:
        assert contrast(ink, ground) >= 4.5, name  # WCAG AA


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG's contrast ratio of two sRGB colours."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [360, 600, 800, 1000, 1280])
def test_nothing_sticks_out_of_a_narrow_window(shown: Page, width: int) -> None:
    shown.set_viewport_size({"width": width, "height": 800})
    shown.locator(".open").first.click()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_html_in_a_completion_or_a_file_name_is_text(tmp_path: Path, browser_page: Page) -> None:
    said = f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>"
    path = page_of(tmp_path, Made(HOSTILE, said=said), Made("<b>bold</b>", said="&lt;i&gt;"))
    browser_page.goto(path.as_uri())
    for button in browser_page.locator(".open").all():
        button.click()
    assert HOSTILE in browser_page.locator("#table").evaluate("t => t.textContent")
    assert "<b>bold</b>" in names(browser_page)
    assert "&lt;i&gt;" in browser_page.locator(".said").all_inner_texts()
    assert "<i>model</i>" in browser_page.locator("header").inner_text()
    assert not browser_page.evaluate("'hacked' in window")
    assert browser_page.locator("script").count() == 4  # rows, two cards, the page's own
    assert browser_page.locator("b", has_text="bold").count() == 0


def test_only_the_pages_own_script_may_run(shown: Page) -> None:
    policy = shown.locator("meta[http-equiv]").get_attribute("content")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_clip_that_is_gone_is_shown_without_its_file(
    tmp_path: Path, browser_page: Page, caplog
) -> None:
    make_attribution(tmp_path / "run", [Made("a"), Made("b")])
    (tmp_path / "run/clips/a.mp4").unlink()
    (tmp_path / "run/clips/b.mp4").write_bytes(b"broken")
    write_clip_page(tmp_path / "page.html", [str(tmp_path / "run")])
    assert "shown without its file" in caplog.text
    browser_page.goto((tmp_path / "page.html").as_uri())
    for button in browser_page.locator(".open").all():
        button.click()
    errors = browser_page.locator(".error").all_inner_texts()
    assert len(errors) == 2
    assert any("a.mp4: no such file" in text for text in errors)


def test_runs_stand_side_by_side(tmp_path: Path, browser_page: Page) -> None:
    for name in ("cold", "rlvr"):
        make_attribution(tmp_path / "runs" / name, [Made("a"), Made("b")], num_generations=0)
    write_clip_page(tmp_path / "page.html", [str(tmp_path / "runs")])
    browser_page.goto((tmp_path / "page.html").as_uri())
    heads = browser_page.locator("#summary thead th").all_inner_texts()
    assert heads == ["", "cold/test", "rlvr/test"]
    line = browser_page.locator("#summary tr", has_text="label list says what is generated")
    assert line.locator("td").all_inner_texts() == ["25.0", "25.0"]
    assert "claims that are false" not in browser_page.locator("#summary").inner_text()
    browser_page.get_by_label("Run").select_option("rlvr/test")
    assert sorted(names(browser_page)) == ["a", "b"]


def test_without_chosen_clips_the_page_says_so(tmp_path: Path, browser_page: Page) -> None:
    path = page_of(tmp_path, Made("a"), num_chosen=0)
    browser_page.goto(path.as_uri())
    assert "task.num_chosen" in browser_page.locator("header").inner_text()
    assert browser_page.locator("#table").is_hidden()


@pytest.mark.slow
def test_rules_are_told_of_in_full(twelve: Path) -> None:
    data = blocks(twelve.read_text())["rows"]
    assert data["rules"] == list(RULES)
    assert any(CONFLICT in row["rules"] for row in data["rows"])


@pytest.mark.parametrize("what", ["nothing", "empty", "broken"])
def test_what_is_no_attribution_is_refused(tmp_path: Path, what: str) -> None:
    place = tmp_path / "run"
    if what == "empty":
        place.mkdir()
    if what == "broken":
        make_attribution(place, [Made("a")])
        (place / "test/attribution.parquet").write_bytes(b"no parquet")
    message = (
        "run the task again" if what == "broken" else "omni-rlvr .experiment=attribute makes one"
    )
    with pytest.raises(UserError, match=message) as error:
        write_clip_page(tmp_path / "page.html", [str(place)])
    assert "\n" not in str(error.value)
