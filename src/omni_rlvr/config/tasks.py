"""The options of each task, as dataclasses that Hydra uses as its schemas.

Hydra refuses an unknown key or a wrong type while it composes the config. ``__post_init__`` checks
ranges before the task's ``build`` runs. This file imports no torch, because the command line reads
it before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from omni_rlvr.types import LEADS, field_check


@dataclass
class EvaluateTask:
    """Generate answers greedily for labelled splits; measure WAR, UAR, weighted F1 and format."""

    name: str = "evaluate"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """The splits of the data set to evaluate on."""
    batch_size: int = 100
    """The number of prompts that are decoded together."""
    max_completion_length: int = 96
    """The most tokens that an answer may have."""
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that the answer already holds less likely; 1 is off."""
    max_clips: int = 0
    """Evaluate on only this many clips, the first ones; 0 takes all."""
    score_labels: bool = True
    """Whether the model also chooses a label of the list by likelihood, after its own reasoning.
    WAR of these choices (``chosen_war``) says what is recognised, whatever words the generated
    answers use. Questions without a label list have no such choice."""
    num_resamples: int = 2000
    """The number of bootstrap resamples for the 95 % interval."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            check(key, vars(self)[key] >= 1, "1 or more")
        check("repetition_penalty", 1 <= self.repetition_penalty < math.inf, "1 (off) or more")
        check("max_clips", self.max_clips >= 0, "0 (all) or more")


@dataclass
class StartConfig:
    """The training run whose checkpoint a run starts from, in place of ``model.path``."""

    overrides: list[str] = field(default_factory=list)
    """The Hydra overrides of that training run; an empty list means that there is no such run. The
    first run that needs it trains it, under ``outputs/<its name>/shared``; later runs reuse it."""
    num_examples: int = -1
    """The number of examples that it trains on (its ``dataset.max_train_examples``). -1 takes all;
    0 skips that run, so that training starts from ``model.path``."""

    def __post_init__(self) -> None:
        check = field_check(self, "task.start_from")
        check("num_examples", self.num_examples >= -1, "-1 (all), 0 (no such run) or more")


@dataclass
class TrainTask:
    """Train one stage and save a checkpoint."""

    name: str = "train"
    start_from: StartConfig = field(default_factory=StartConfig)
    evaluate_after: EvaluateTask = field(default_factory=lambda: EvaluateTask(splits=[]))
    """How the trained model is evaluated afterwards, with the options of task=evaluate. The results
    go into the folder of this run. Without splits there is no evaluation."""


@dataclass
class PredictTask:
    """Answer for clips without labels: video=FILE, FOLDER or GLOB (and audio=)."""

    name: str = "predict"
    batch_size: int = 16
    """The number of clips that are decoded together."""
    max_completion_length: int = 256
    """The most tokens that an answer may have."""
    temperature: float = 0.0
    """The sampling temperature, which divides the logits; 0 decodes greedily."""
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that the answer already holds less likely; 1 is off."""
    stream: bool = True
    """Whether the answer to a single clip is shown token by token, as it is generated."""
    question: str | None = None
    """The question about each clip; null asks the one that the model was trained on, or R1-Omni's
    question about the emotion where that is not known."""
    labels: list[str] = field(default_factory=list)
    """The labels whose probabilities are given; an empty list takes those that the model was
    trained on, or dataset.labels where they are not known."""
    answer_form: str = "auto"
    """Where the probabilities of the labels are read: "tags" inside the answer tags, "bare" as the
    whole reply. "auto" reads them after the model's own reasoning if its answer stands in tags, and
    else in the form that the prompt asks for."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        for key in ("batch_size", "max_completion_length"):
            check(key, vars(self)[key] >= 1, "1 or more")
        check("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more")
        check("repetition_penalty", 1 <= self.repetition_penalty < math.inf, "1 (off) or more")
        check("question", _asks(self.question), "a question, or null")
        forms = ("auto", "tags", "bare")
        check("answer_form", self.answer_form in forms, f"one of {forms}")


@dataclass
class PipelineTask:
    """Train several stages, evaluate every model, and put the results into one table."""

    name: str = "pipeline"
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Step name -> Hydra overrides of a training run. The steps run in this order; ``{step}``
    stands for the checkpoint of the step of that name."""
    shared: list[str] = field(default_factory=list)
    """Overrides that are added to every step."""
    evaluate: dict[str, list[str]] = field(default_factory=dict)
    """Model name -> overrides of its evaluation on ``splits``."""
    splits: list[str] = field(default_factory=list)
    """The splits that every model is evaluated on."""
    modality: dict[str, list[str]] = field(default_factory=dict)
    """Modality name -> overrides of an evaluation on the first of ``splits``."""
    gain: list[str] = field(default_factory=list)
    """Two models of ``evaluate``: what the second one gains over the first is taken apart into
    recognition and vocabulary, and all models are compared with the second. An empty list leaves
    both out."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        check("stages", bool(self.stages), "at least one")
        check("evaluate", bool(self.splits and self.evaluate), "at least one, with task.splits")
        two = len(set(self.gain)) == len(self.gain) == 2 and set(self.gain) <= self.evaluate.keys()
        known = ", ".join(self.evaluate)
        check(
            "gain", two or not self.gain, f"two different models of task.evaluate ({known}), or []"
        )


@dataclass
class AttributeTask:
    """Measure what each modality contributes: Shapley values, swapped sounds, faithful
    reasoning."""

    name: str = "attribute"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """The splits to measure on; their gold answers must be among dataset.labels."""
    batch_size: int = 32
    """The number of clips that are read together and of prompts that are scored together. The
    sounds for swaps are taken from other clips of the same batch."""
    max_clips: int = 0
    """Measure on only this many clips, the first ones; 0 takes all."""
    text: bool = False
    """Whether the question is a third player of the Shapley values, beside video and audio."""
    absent: str = "drop"
    """What replaces a modality that is left out: "drop" removes it from the prompt, "silence_grey"
    puts silence or a grey picture there, "other_clip" that of a clip with another label."""
    value: str = "log_prob"
    """The value v(S) of a subset: "log_prob" or "prob" of a label, normalised over all labels."""
    lead: str = "own_reasoning"
    """The text between the prompt and a label that is scored. "own_reasoning" is the policy's
    greedy reasoning, generated for each subset, and so measures the reasoned answer. "empty_think"
    is an empty think block and "direct" nothing; both are cheaper, but the policy may answer
    otherwise once it has reasoned."""
    swap: bool = True
    """Whether pictures are also shown with the sounds of other clips, to see which one the model
    follows."""
    num_reasoned: int = 64
    """The number of clips, drawn by the seed, on which the reasoning is compared with what drove
    the answer; 0 takes none, -1 all. lead=own_reasoning always takes all, at no extra cost."""
    max_completion_length: int = 96
    """The most tokens that the reasoning may have."""
    num_resamples: int = 2000
    """The number of bootstrap resamples for the 95 % intervals."""
    num_chosen: int = 0
    """The number of clips that are shown on the page of task=report html=true for each of its three
    rules: most confident and right, most confident and wrong, largest conflict. 0 shows none."""
    num_generations: int = 8
    """The number G of completions that are sampled for each of these clips and scored by
    ``reward``; 0 samples none."""
    temperature: float = 1.0
    """The temperature that these completions are sampled at; it divides the logits."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            check(key, vars(self)[key] >= 1, "1 or more")
        check("max_clips", self.max_clips >= 0, "0 (all) or more")
        check("num_chosen", self.num_chosen >= 0, "0 (none) or more")
        compares = self.num_generations == 0 or self.num_generations >= 2
        check("num_generations", compares, "0 (none), or 2 or more: advantages compare")
        check("temperature", 0 < self.temperature < math.inf, "above 0")
        check("num_reasoned", self.num_reasoned >= -1, "-1 (all), or 0 or more")
        check("splits", bool(self.splits), "at least one split")
        _check_scoring(self, ("drop", "silence_grey", "other_clip"))


@dataclass
class CacheTask:
    """Store the features of whole splits, so that later runs need not run the towers."""

    name: str = "cache"
    splits: list[str] = field(default_factory=list)
    """The splits to encode; an empty list takes all."""
    batch_size: int = 16
    """The number of clips that are encoded together."""

    def __post_init__(self) -> None:
        field_check(self, "task")("batch_size", self.batch_size >= 1, "1 or more")


@dataclass
class PlanTask:
    """Estimate the memory of a training run before anything is loaded."""

    name: str = "plan"
    clip_s: float = 10.0
    """The length of the clips to plan for, in seconds."""
    frame_height: int = 360
    """The height of their pictures, in pixels."""
    frame_width: int = 640
    """The width of their pictures, in pixels."""
    target_length: int = 256
    """The number of tokens of the longest target; used with stages that sample nothing."""
    device_gb: float | None = None
    """The memory of the device, in 10^9 bytes; null takes that of the device on this machine."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        check("clip_s", 0 < self.clip_s < math.inf, "above 0")
        for key in ("frame_height", "frame_width", "target_length"):
            check(key, vars(self)[key] >= 1, "1 or more")
        known = self.device_gb is None or 0 < self.device_gb < math.inf
        check("device_gb", known, "above 0, or null")


@dataclass
class PrepareTask:
    """Cut clips out of the recordings of a data set that is released without clips."""

    name: str = "prepare"
    overwrite: bool = False
    """Whether clips that exist already are made again. A clip that is older than its recording
    always is."""


@dataclass
class PreviewTask:
    """Draw a sheet of clips: filmstrip, mel spectrogram, label, reasoning."""

    name: str = "preview"
    split: str = MISSING
    """The split that the clips are drawn from."""
    num_clips: int = 8
    """The number of clips on the sheet, 1 to 50."""
    max_reasoning_chars: int = 320
    """The most characters of reasoning that are shown; the rest is cut."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        check("num_clips", 1 <= self.num_clips <= 50, "1 to 50")
        check("max_reasoning_chars", self.max_reasoning_chars >= 1, "1 or more")


@dataclass
class CheckTask:
    """Open every clip of a data set and compare its counts with the published ones."""

    name: str = "check"
    splits: list[str] = field(default_factory=list)
    """The splits to check; an empty list takes all."""
    decode: str = "frame"
    """How much of a clip is decoded. "frame" decodes its middle frame and the start of its sound.
    "all" decodes what training would sample, then every frame and all sound: slower, but it finds
    every fault."""
    max_listed: int = 10
    """The number of bad clips that are printed for each split; check.json lists all."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        check("decode", self.decode in ("frame", "all"), "frame or all")
        check("max_listed", self.max_listed >= 0, "0 or more")


@dataclass
class ExportTask:
    """Merge adapters into their base and write a checkpoint that needs no other one."""

    name: str = "export"
    to: str = MISSING
    """The folder to write, or ``hub:OWNER/NAME`` for a repository on the Hugging Face hub, which is
    made. The folder must not exist yet, and the repository must hold no files."""
    private: bool = True
    """Whether a repository that is made on the hub can be seen by its owner alone."""
    layout: str = "omni"
    """The file layout: "omni" is this project's own, "humanomni" is what HumanOmni's code reads."""

    def __post_init__(self) -> None:
        known = self.layout in ("omni", "humanomni")
        field_check(self, "task")("layout", known, "omni or humanomni")


@dataclass
class ReportTask:
    """Compare runs: tables, tests against a baseline, figures, one HTML page."""

    name: str = "report"
    baseline: str = ""
    """The run or setting that the others are tested against: the name of a run, or COLUMN:VALUE,
    e.g. ``format:1``. Empty makes no tests."""
    allow_different_labels: bool = False
    """Whether runs may be compared although their label lists differ."""
    num_resamples: int = 2000
    """The number of bootstrap resamples for the 95 % intervals of differences."""
    max_groups: int = 8
    """The most settings in a figure of recalls or confusion: the best by WAR, and the baseline."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        for key in ("num_resamples", "max_groups"):
            check(key, vars(self)[key] >= 1, "1 or more")


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine can reach."""


@dataclass
class ServeTask:
    """Serve a web page that takes a clip and shows the reasoning and what drove the answer."""

    name: str = "serve"
    host: str = "127.0.0.1"
    """The address to listen on. With any address but this machine's own, others can open the page;
    there is no password."""
    port: int = 7860
    """The port to listen on; 0 takes a free one."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Further host names that requests may be made to, e.g. that of a proxy in front of the page.
    Requests to other names than these and the page's own are refused, because another web site may
    have caused them."""
    compare: str | None = None
    """A second checkpoint of the same model group, which is shown beside model.path; null for none.
    """
    max_upload_mb: float = 100.0
    """The largest file that is accepted, in 10^6 bytes."""
    max_session_mb: float | None = None
    """The most that the files of one browser session may take at a time, in 10^6 bytes; all
    sessions together may take ten times as much. null allows five of the largest files."""
    max_clip_s: float = 60.0
    """The longest clip that is accepted, in seconds."""
    keep_upload_s: float = 600.0
    """The seconds after which an uploaded file is deleted if nobody asks about it. A file that was
    asked about is deleted once its answer is there."""
    max_completion_length: int = 256
    """The most tokens that an answer may have."""
    question: str | None = None
    """The question that the page shows first, where it can be changed; null takes the one that the
    model was trained on, or R1-Omni's question about the emotion where that is not known."""
    labels: list[str] = field(default_factory=list)
    """The labels whose probabilities are given; an empty list takes those that the model was
    trained on, or dataset.labels where they are not known."""
    absent: str = "drop"
    """What replaces a modality that is left out: "drop" removes it from the prompt, "silence_grey"
    puts silence or a grey picture there."""
    value: str = "prob"
    """The value v(S) of the Shapley bars: "prob" or "log_prob" of the answer, normalised over the
    labels."""
    lead: str = "own_reasoning"
    """The text between the prompt and a label that is scored, as in task=attribute. "own_reasoning"
    generates the reasoning for each subset; "empty_think" and "direct" are faster, but measure
    another answer than the reasoned one."""
    split: str = "test"
    """The split that the page's example clips come from; without such a split there are none."""
    num_examples: int = 6
    """The number of example clips on the page, with different labels where possible; 0 for none."""

    def __post_init__(self) -> None:
        check = field_check(self, "task")
        check("port", 0 <= self.port < 2**16, "0 (any free one) to 65535")
        for key in ("max_upload_mb", "max_clip_s", "keep_upload_s"):
            check(key, 0 < vars(self)[key] < math.inf, "greater than 0")
        if self.max_session_mb is None:  # resolved here, so that every reader finds a number
            self.max_session_mb = 5 * self.max_upload_mb
        fits = self.max_upload_mb <= self.max_session_mb < math.inf
        check("max_session_mb", fits, f"task.max_upload_mb={self.max_upload_mb:g} or more")
        check("max_completion_length", self.max_completion_length >= 1, "1 or more")
        check("num_examples", self.num_examples >= 0, "0 or more")
        check("question", _asks(self.question), "a question, or null")
        _check_scoring(self, ("drop", "silence_grey"))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK


def _asks(question: str | None) -> bool:
    """Tell whether a question can be asked: it holds text, or is left to the default."""
    return question is None or bool(question.strip())


def _check_scoring(task: AttributeTask | ServeTask, absent: tuple[str, ...]) -> None:
    """Check how labels are scored; ``absent`` names the ways to leave a modality out."""
    choices = {"absent": absent, "value": ("log_prob", "prob"), "lead": tuple(LEADS)}
    for key, allowed in choices.items():
        wanted = f"one of {', '.join(allowed)}"
        field_check(task, "task")(key, vars(task)[key] in allowed, wanted)
