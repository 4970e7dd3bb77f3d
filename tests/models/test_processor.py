"""Text that the tokenizer would read as a placeholder or an end of turn is refused by its place."""

from __future__ import annotations

import pytest

from omni_rlvr.models.composed.tiny import SPECIAL_TOKENS
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.types import UserError


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("text", ["{}", "How does {} feel?", "sad{}"])
def test_a_special_token_in_text_is_named_with_its_source(tiny_policy, token, text):
    with pytest.raises(UserError) as caught:
        tiny_policy.processor.check_text(text.format(token), "train.json[7]")
    message = str(caught.value)
    assert message.startswith("train.json[7]: ")
    assert token in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How?",
        "<video>",
        "<|im_end",
        "im_end|>",
        "<think>a</think>\n<answer>b</answer>",
        "a|b<c",
    ],
)
def test_other_text_passes(tiny_policy, text):
    tiny_policy.processor.check_text(text, "train.json[7]")


def test_what_passes_makes_no_placeholder(tiny_policy):
    """The reason for it all: placeholders come from the media alone."""
    processor = tiny_policy.processor
    ids = processor.prompt("<video><audio>?", processor.video_shape, None)[0]
    assert ids.count(VIDEO_ID) == processor.settings.video_tokens
    assert AUDIO_ID not in ids
