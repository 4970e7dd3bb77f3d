"""Hostile checkpoints: nothing that lies in one is run, and what it asks for is refused by name."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from case_parts import make_parts
from transformers import PreTrainedTokenizerFast

import omni_rlvr
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.chat_template import CHAT_TEMPLATE, TURNS, chat_frame
from omni_rlvr.models.loading.from_parts import Parts, compose_policy
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.loading.untrusted import import_bitsandbytes
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow

PACKAGE = Path(omni_rlvr.__file__).parent
READERS = (
    "from_pretrained",
    "from_config",
    "pipeline",
    "load_dataset",
    "get_class_from_dynamic_module",
)
KINDS = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
AUTO_MAP = {**dict.fromkeys(KINDS, "evil.X"), "AutoFeatureExtractor": "evil.X"}
AUTO_MAP["AutoTokenizer"] = ["evil.X", "evil.X"]  # type: ignore[assignment]


def test_every_call_that_reads_a_checkpoint_refuses_its_code() -> None:
    """A reference to such a method that is handed on would escape: there is none."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and node.attr in READERS):
                continue
            call = called.get(id(node))
            safe = call is not None and any(
                word.arg == "trust_remote_code"
                and isinstance(word.value, ast.Constant)
                and word.value.value is False
                for word in call.keywords
            )
            of_a_config = node.attr == "from_config" and call is not None  # read before
            if not (safe or of_a_config):
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not wrong
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert "trust_remote_code=True" not in text


@pytest.fixture
def folder(tiny_policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with code that leaves a mark when it is run; a user who says yes to all."""
    tiny_policy.save(tmp_path / "evil")
    mark = tmp_path / "mark"
    for place in ("", "image_processor", "feature_extractor"):
        code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass X: pass\n"
        (tmp_path / "evil" / place / "evil.py").write_text(code)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr(sys, "stdin", None)
    return tmp_path / "evil"


def put(folder: Path, file: str, **fields) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        load_policy(str(folder), "float32", None, LoadOptions(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("config.json", {}, None),
        ("config.json", {"text_config": {"model_type": "evil", "auto_map": AUTO_MAP}}, "evil"),
        ("config.json", {"vision_config": {"model_type": "evil", "auto_map": AUTO_MAP}}, "evil"),
        ("config.json", {"model_type": "evil"}, "model_type='evil'"),
        ("tokenizer_config.json", {"tokenizer_class": "Evil"}, None),
        ("tokenizer_config.json", {}, None),
        ("image_processor/preprocessor_config.json", {}, None),
        (
            "image_processor/preprocessor_config.json",
            {"image_processor_type": "Evil"},
            "it needs code that comes with it, which is never run",
        ),
        ("feature_extractor/preprocessor_config.json", {"feature_extractor_type": "Evil"}, None),
        ("config.json", {"attn_implementation": "evil/kernel"}, "asks for code from elsewhere"),
        ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantised"),
    ],
)
def test_nothing_of_a_checkpoint_is_run(
    folder: Path, file: str, fields: dict, message: str | None
) -> None:
    put(folder, file, auto_map=AUTO_MAP, **fields)
    if message is None:
        load_policy(str(folder), "float32", None)  # transformers' own classes read it
    else:
        assert message in refused(folder)
    assert not folder.with_name("mark").exists()


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("language_model", "config.json"),
        ("language_model", "tokenizer_config.json"),
        ("vision_tower", "config.json"),
        ("vision_tower", "preprocessor_config.json"),
        ("audio_tower", "config.json"),
        ("audio_tower", "preprocessor_config.json"),
    ],
)
def test_nothing_of_a_part_is_run(folder: Path, tiny_policy, key: str, file: str) -> None:
    places = make_parts(folder.parent, tiny_policy.processor.tokenizer)
    place = Path(places[key])
    (place / "evil.py").write_text((folder / "evil.py").read_text())
    kinds = {"model_type": "evil", "image_processor_type": "Evil", "tokenizer_class": "Evil"}
    put(place, file, auto_map=AUTO_MAP, **kinds)
    names = ("vision_tower", "audio_tower", "language_model")
    chosen = {name: places[name] for name in names}
    joints = {"video_merge": 2, "audio_merge": 5, "audio_pooling": "mean", "num_frames": 2}
    parts = Parts(
        **chosen, gate_bert=None, video_projector="mlp2x_gelu", vision_select_layer=None, **joints
    )
    said = f"model.parts.{key}="
    try:
        compose_policy(None, "float32", None, parts)
    except UserError as error:
        said = str(error)
    assert f"model.parts.{key}=" in said
    assert not folder.with_name("mark").exists()


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_is_read_without_being_run(folder: Path) -> None:
    mark = folder.with_name("mark")
    weights = {"a": torch.zeros(1), "b": Runs(mark)}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "model.options.allow_pickle=true" in refused(folder)
    assert "cannot be read" in refused(folder, allow_pickle=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(mark)))
    assert "cannot be read" in refused(folder, allow_pickle=True)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("text", ["{", "[]", '"a"', "null", '{"version": 1}', "[" * 100_000])
def test_a_damaged_file_is_one_line(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    said = str(folder)
    try:
        load_policy(str(folder), "float32", None)  # a tokenizer needs no tokenizer_config.json
    except UserError as error:
        said = str(error)
    assert str(folder) in said
    assert "\n" not in said


# ---- chat templates

TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (TURNS, "<|im_start|>user\n a\n<|im_end|>\n<|im_start|>assistant\n"),
        ("{{ messages[0]['content'] }}!", " a\n!"),
        (
            "[INST] {{ messages[0].content | trim }} [/INST]{{ eos_token }}",
            "[INST] a [/INST]<|im_end|>",
        ),
        (CHAT_TEMPLATE.replace("helpful", "kind"), None),
    ],
)
def test_a_prompt_is_what_the_template_writes(
    tiny_policy, template: str, prompt: str | None
) -> None:
    frame = chat_frame(template, TOKENS, "here")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_policy.processor.tokenizer.backend_tokenizer, **TOKENS
    )
    tokenizer.chat_template = template
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": " a\n"}], add_generation_prompt=True, tokenize=False
    )
    assert frame.around(" a\n") == theirs
    assert prompt in (None, theirs)


HUGE = "{% set n = 3000000000 %}{{ 'a' * n }}"
"""One piece above the limit: a text that grows to it may meet the limit on computing first."""
ONCE = "it does not write a user's turn exactly once"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "it takes more than 2 s of computing",
        ),
        (HUGE, "GiB of memory"),
        ("{{ 'a' * 2000000 }}{{ messages[0].content }}", "writes more than 1,000,000 characters"),
        ("{{ raise_exception('no system turn\nhere') }}", "no system turn (TemplateError)"),
        ("{{ messages[7].content }}", "(UndefinedError)"),
        ("{% if %}", "(TemplateSyntaxError)"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "(TypeError)"),
        ("hello", ONCE),
        (
            "{{ messages[0].content }}{{ messages[0].content }}",
            "it does not write a user's turn exactly once",
        ),
        ("{{ messages[0].content | upper }}", ONCE),
        ("{{ messages[0].content | replace('think', '') }}", "it changes a user's turn"),
        ("<|video|>{{ messages[0].content }}", "it changes a user's turn"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as error:
        chat_frame(template, TOKENS, "here")
    assert str(error.value).startswith("model.path=here: its chat template cannot be used: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_process_that_ends_for_another_reason_is_not_called_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UserError, match="the process that renders it ends with 1: no message"):
        chat_frame("{{ messages[0].content }} by another process", TOKENS, "here")


def test_a_checkpoint_with_such_a_template_is_refused_when_it_is_loaded(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('evil') }}")
    assert f"model.path={folder}: its chat template cannot be used: evil" in refused(folder)
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template; copy chat_template.jinja" in refused(folder)


def test_bitsandbytes_gets_no_kernel_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = "try:\n    import kernels\nexcept ImportError:\n    kernels = None\n"
    (tmp_path / "bitsandbytes.py").write_text(asks)
    (tmp_path / "kernels.py").write_text("")
    for name in [n for n in sys.modules if n.split(".")[0] in ("bitsandbytes", "kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    found = import_bitsandbytes()
    sys.modules.pop("bitsandbytes")
    assert found is not None
    assert found.kernels is None
    assert "kernels" not in sys.modules
