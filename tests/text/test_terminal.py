"""What may reach a terminal."""

from __future__ import annotations

from omni_rlvr.text.terminal import printable


def test_escape_sequences_do_not_reach_the_terminal():
    assert printable("a\x1b[31mred\x07\r\n\tb\x9b") == "a\ufffd[31mred\ufffd\ufffd\n\tb\ufffd"


def test_bytes_of_a_file_name_that_are_no_text():
    assert printable("a\udcffb") == "a\ufffdb"


def test_text_stays_as_it_is():
    text = "naïve\u00a0café \u3000悲しい \U0001f469\u200d\U0001f467"
    assert printable(text) == text
