"""R1-Omni's experiments: hyper-parameters as published, quirks where ``as_published`` says so, and
options that have one home.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.instantiate import check, make
from omni_rlvr.cli import conf_dir
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.tasks.table import register

pytestmark = pytest.mark.slow  # many configs are composed

register()

CONF = Path(__file__).parents[2] / "conf"
DATA = ("dataset.root=c", "dataset.annotations.train=a.json", "dataset.annotations.test=b.json")


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


def composed(name: str, *overrides: str):
    names = [f"+experiment=r1_omni/{name}", *DATA, "model.path=DIR", *overrides]
    config, typed = check(compose("config", overrides=names))
    return config, typed


# batch, epochs, learning rate, schedule, warm-up: facts of the authors' scripts
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cold_start", (16, 5, 2e-5, "cosine", 0.03, 500)),
        ("sft_labels", (128, 1, 2e-5, "cosine", 0.03, 500)),
        ("rlvr", (16, 2, 1e-6, "linear", 0.0, 1000)),
    ],
)
def test_hyper_parameters(name, wanted) -> None:
    for variant in (name, f"as_published/{name}"):
        config, typed = composed(variant)
        stage = typed["stage"]
        assert wanted == (
            stage.batch_size,
            stage.num_train_epochs,
            config["optimizer"]["lr"],
            stage.lr_scheduler_type,
            stage.warmup_ratio,
            stage.save_steps,
        )
        assert (stage.max_grad_norm, config["optimizer"]["weight_decay"]) == (1.0, 0.0)
        assert config["optimizer"]["betas"] == [0.9, 0.999]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cold_start", "sft_labels", "rlvr", "as_published/rlvr"])
@pytest.mark.parametrize("hardware", sorted(path.stem for path in (CONF / "hardware").iterdir()))
def test_hardware_decides_sizes_and_nothing_that_is_learnt(name: str, hardware: str) -> None:
    plain, sized = (composed(name, *more)[0] for more in ((), (f"+hardware={hardware}",)))
    sizes = ("micro_batch_size", "max_tokens_per_micro_batch", "gradient_checkpointing")
    assert sized["stage"]["batch_size"] % sized["trainer"]["devices"] == 0
    for key in (*sizes, "devices", "accelerator"):
        group = "stage" if key in sizes else "trainer"
        assert sized[group].pop(key) is not None
        plain[group].pop(key)
    assert sized == plain  # the batch of all devices among it


def test_eight_gpus() -> None:
    config = composed("rlvr", "+hardware=8gpu")[0]
    assert (config["trainer"]["devices"], config["trainer"]["accelerator"]) == (8, "cuda")
    assert config["stage"]["gradient_checkpointing"]


def test_rlvr_samples_as_the_authors_do() -> None:
    for name, top_k in (("rlvr", 0), ("as_published/rlvr", 50)):
        stage = composed(name)[1]["stage"]
        assert (stage.num_generations, stage.beta, stage.sampling.top_k) == (8, 0.04, top_k)
        assert (stage.sampling.temperature, stage.sampling.max_completion_length) == (1.0, 512)


@pytest.mark.parametrize("name", ["cold_start", "sft_labels", "rlvr", "evaluate"])
def test_quirks_are_off_unless_asked_for(name) -> None:
    assert make(composed(name)[0]["model"]["options"]) == LoadOptions()
    assert make(composed(f"as_published/{name}")[0]["model"]["options"]) != LoadOptions()


@pytest.mark.slow
def test_as_published() -> None:
    options = {
        name: make(composed(f"as_published/{name}")[0]["model"]["options"])
        for name in ("cold_start", "rlvr", "evaluate")
    }
    sft, rl, use = options.values()
    assert (sft.wording, rl.wording, use.wording) == ("p1_cold_start", "p3_rlvr", "p2_inference")
    assert (sft.image_fit, rl.image_fit, use.image_fit) == ("pad", "pad", "squash")
    assert (sft.media_end, rl.media_end, use.media_end) == ("\n\n\n", "\n", "\n")
    assert (sft.gate_text, rl.gate_text, use.gate_text) == ("turn", "prompt", "prompt")
    trains = [composed(f"as_published/{n}")[1]["trainable"] for n in ("cold_start", "rlvr")]
    assert [block.bert for block in trains] == [False, True]
    assert (sft.bert_dropout, rl.bert_dropout, use.bert_dropout) == (True, True, False)
    assert (sft.reset_gate, rl.reset_gate) == (True, False)
    assert (rl.stray_vision_tokens, use.stray_vision_tokens) == (True, False)
    reward = composed("as_published/rlvr")[0]["reward"]
    assert reward["terms"]["accuracy"]["_target_"].endswith("PublishedAccuracy")


@pytest.mark.slow
def test_the_steps_of_the_whole_road_compose() -> None:
    names = [f"dataset.annotations.{s}={s}.json" for s in ("cold_start", "sft_labels", "rlvr")]
    cfg = compose("config", overrides=["+experiment=r1_omni/as_published", *DATA, *names])
    task = check(cfg)[1]["task"]
    steps = {**task.stages, **task.evaluate}
    for name, overrides in {**task.stages, **task.evaluate}.items():
        filled = [o.format(**dict.fromkeys(steps, "DIR")) for o in overrides]
        config, _ = check(compose("config", overrides=[*filled, *task.shared]))
        assert config["name"].startswith("r1_omni/as_published/"), name
