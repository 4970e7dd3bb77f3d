"""What a person tunes of each task: dataclasses that are their own Hydra schemas.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``, which
runs before a task's ``build``. No torch is imported: the command line reads this file first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from omni_rlvr.types import LEADS, require


@dataclass
class EvaluateTask:
    """Generates greedily on labelled splits and measures WAR, UAR and format."""

    name: str = "evaluate"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the data set to evaluate on."""
    batch_size: int = 100
    """Prompts decoded together."""
    max_completion_length: int = 96
    """Most tokens an answer may have."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that an answer has less likely; 1 is off."""
    max_clips: int = 0
    """Evaluates on the first clips only; 0 takes all."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % interval."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        _require_penalty(self.repetition_penalty)
        require(self.max_clips >= 0, "task.max_clips", self.max_clips, "0 (all) or more")


@dataclass
class StartConfig:
    """The training run whose checkpoint a run starts from, in place of ``model.path``."""

    overrides: list[str] = field(default_factory=list)
    """Its Hydra overrides; none: there is no such run. It is made once, by whichever run needs it
    first, under ``outputs/<its name>/shared``."""
    num_examples: int = -1
    """Training examples it gets (``dataset.max_train_examples``); -1 is all, 0 leaves it out, so
    that the run starts from ``model.path``."""

    def __post_init__(self) -> None:
        require(
            self.num_examples >= -1,
            "task.start_from.num_examples",
            self.num_examples,
            "-1 (all), 0 (no such run) or more",
        )


@dataclass
class TrainTask:
    """Trains one stage and saves a checkpoint."""

    name: str = "train"
    start_from: StartConfig = field(default_factory=StartConfig)
    evaluate_after: EvaluateTask = field(default_factory=lambda: EvaluateTask(splits=[]))
    """An evaluation, as of task=evaluate, of the trained model; its files go into the same run. No
    splits: none."""


@dataclass
class PredictTask:
    """Answers for clips without labels: +video=FILE, FOLDER or GLOB (and +audio=)."""

    name: str = "predict"
    batch_size: int = 16
    """Clips decoded together."""
    max_completion_length: int = 256
    """Most tokens an answer may have."""
    temperature: float = 0.0
    """Divides the logits when sampling; 0 decodes greedily."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that an answer has less likely; 1 is off."""
    stream: bool = True
    """Shows the answer to a single clip token by token."""
    question: str | None = None
    """What is asked about each clip; null asks R1-Omni's question for the emotion."""
    labels: list[str] = field(default_factory=list)
    """What probabilities are over; empty takes dataset.labels."""
    answer_form: str = "auto"
    """Where labels are scored: in answer "tags", as a "bare" reply, or "auto": behind the model's
    own reasoning if it has answered in tags, else as the prompt asks for."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        require(
            0 <= self.temperature < float("inf"),
            "task.temperature",
            self.temperature,
            "0 (greedy) or more",
        )
        _require_penalty(self.repetition_penalty)
        blank = self.question is not None and not self.question.strip()
        require(not blank, "task.question", self.question, "a question, or null")
        forms = ("auto", "tags", "bare")
        require(self.answer_form in forms, "task.answer_form", self.answer_form, f"one of {forms}")


@dataclass
class PipelineTask:
    """Trains several stages, evaluates every model, and ends in one table."""

    name: str = "pipeline"
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Step name -> Hydra overrides of a training run, in order; ``{step}`` stands for that step's
    checkpoint."""
    shared: list[str] = field(default_factory=list)
    """Overrides of every step."""
    evaluate: dict[str, list[str]] = field(default_factory=dict)
    """Model name -> overrides of its evaluation on ``splits``."""
    splits: list[str] = field(default_factory=list)
    modality: dict[str, list[str]] = field(default_factory=dict)
    """Modality name -> overrides of an evaluation on the first of ``splits``."""

    def __post_init__(self) -> None:
        require(bool(self.stages), "task.stages", self.stages, "at least one")
        require(
            bool(self.splits and self.evaluate),
            "task.evaluate",
            self.evaluate,
            "at least one, with task.splits",
        )


@dataclass
class AttributeTask:
    """Measures what each modality did: Shapley values, swapped sounds, faithful reasoning."""

    name: str = "attribute"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the data set to measure on; gold answers must be of dataset.labels."""
    batch_size: int = 32
    """Clips read together, within which donors for swaps are found; and prompts scored at once."""
    max_clips: int = 0
    """Takes the first clips only; 0 takes all."""
    text: bool = False
    """Whether the prompt text (the question, not the instruction) is a third player."""
    absent: str = "drop"
    """What absent means: "drop" leaves the modality out of the prompt, "silence_grey" shows silence
    or a grey picture, "other_clip" that of a clip with another label."""
    value: str = "log_prob"
    """v(S): "log_prob" or "prob" of a label, normalised over the label list."""
    lead: str = "own_reasoning"
    """What stands before the label: "own_reasoning" the policy's greedy reasoning under each subset
    (a generation a subset), so that it is the reasoned answer that is measured; "empty_think" an
    empty think block, and "direct" nothing but the answer tag: cheap, and of an answer that the
    policy may not give once it has reasoned."""
    swap: bool = True
    """Whether other clips' sounds are put under pictures, to see which one is followed."""
    num_reasoned: int = 64
    """Clips, drawn by the seed, that are reasoned about too, to see if the reasoning is true to
    what drove the answer; 0 none, -1 all. With lead=own_reasoning it is all, at no cost."""
    max_completion_length: int = 96
    """Most tokens a reasoning may have."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % intervals."""
    num_chosen: int = 0
    """Clips by each rule (most confident right, most confident wrong, largest conflict) that are
    written out for the page of task=report html=true; 0 none."""
    num_generations: int = 8
    """G, completions sampled for each chosen clip and scored by ``reward``; 0 none."""
    temperature: float = 1.0
    """Divides the logits when these are sampled."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        for key, least in (("max_clips", "all"), ("num_chosen", "none")):
            require(
                self.__dict__[key] >= 0, f"task.{key}", self.__dict__[key], f"0 ({least}) or more"
            )
        require(
            self.num_generations == 0 or self.num_generations >= 2,
            "task.num_generations",
            self.num_generations,
            "0 (none), or 2 or more: advantages compare",
        )
        require(
            0 < self.temperature < float("inf"), "task.temperature", self.temperature, "above 0"
        )
        require(
            self.num_reasoned >= -1,
            "task.num_reasoned",
            self.num_reasoned,
            "-1 (all), or 0 or more",
        )
        require(bool(self.splits), "task.splits", self.splits, "at least one split")
        for key, choices in (
            ("absent", ("drop", "silence_grey", "other_clip")),
            ("value", ("log_prob", "prob")),
            ("lead", tuple(LEADS)),
        ):
            seen = self.__dict__[key]
            require(seen in choices, f"task.{key}", seen, f"one of {', '.join(choices)}")


@dataclass
class CacheTask:
    """Fills the feature cache with splits, so that runs on them never wait for a tower."""

    name: str = "cache"
    splits: list[str] = field(default_factory=list)
    """Splits of the data set to encode; none means all."""
    batch_size: int = 16
    """Clips encoded together."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "task.batch_size", self.batch_size, "1 or more")


@dataclass
class PrepareTask:
    """Makes the clips that a release does not have ready: cuts them from its recordings."""

    name: str = "prepare"
    overwrite: bool = False
    """Whether clips that are there are made again; those older than what they are made of always
    are."""


@dataclass
class PreviewTask:
    """Draws a sheet of clips: filmstrip, mel spectrogram, label, reasoning."""

    name: str = "preview"
    split: str = MISSING
    """The split to draw from."""
    num_clips: int = 8
    """Clips on the sheet."""
    max_reasoning_chars: int = 320
    """Longer reasoning is cut."""

    def __post_init__(self) -> None:
        require(1 <= self.num_clips <= 50, "task.num_clips", self.num_clips, "1 to 50")
        require(
            self.max_reasoning_chars >= 1,
            "task.max_reasoning_chars",
            self.max_reasoning_chars,
            "1 or more",
        )


@dataclass
class CheckTask:
    """Opens every clip of a data set and holds its counts against the published ones."""

    name: str = "check"
    splits: list[str] = field(default_factory=list)
    """Splits to check; empty checks all that the data set has."""
    decode: str = "frame"
    """How much of a clip is decoded: "frame" its middle frame and the first of its sound, "all"
    what training would sample, then every frame and all sound: slower, but any fault is found."""
    max_listed: int = 10
    """Bad clips printed a split; check.json lists all."""

    def __post_init__(self) -> None:
        require(self.decode in ("frame", "all"), "task.decode", self.decode, "frame or all")
        require(self.max_listed >= 0, "task.max_listed", self.max_listed, "0 or more")


@dataclass
class ExportTask:
    """Merges adapters into their base and writes a checkpoint that stands alone."""

    name: str = "export"
    to: str = MISSING
    """The folder to write; must not exist."""
    layout: str = "omni"
    """File layout: "omni" (this project's), or "humanomni" for what HumanOmni's code reads."""

    def __post_init__(self) -> None:
        require(
            self.layout in ("omni", "humanomni"), "task.layout", self.layout, "omni or humanomni"
        )


@dataclass
class ReportTask:
    """Puts runs side by side: tables, tests against a baseline, figures, one HTML page."""

    name: str = "report"
    baseline: str = ""
    """What the others are tested against: a run's name, or COLUMN:VALUE, e.g. ``format:1``; none:
    no tests."""
    allow_different_labels: bool = False
    """Lets runs be compared whose scores are over different label lists."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % intervals of differences."""
    max_groups: int = 8
    """Most settings in a figure of recalls or confusion; the best by WAR and the baseline stay."""

    def __post_init__(self) -> None:
        for key in ("num_resamples", "max_groups"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other can reach."""


@dataclass
class ServeTask:
    """Serves a page on this machine: a clip in, its reasoning, and what drove the answer, out."""

    name: str = "serve"
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own lets others in; there is no password.
    """
    port: int = 7860
    """0 takes any that is free."""
    allowed_hosts: list[str] = field(default_factory=list)
    """More names under which the page answers, e.g. that of a proxy in front of it. Its own names
    are known; any other is refused, since it may be another site's."""
    compare: str | None = None
    """A second checkpoint of the same model group, shown beside model.path; null: none."""
    max_upload_mb: float = 100.0
    """Largest file taken, in 10^6 bytes."""
    max_session_mb: float | None = None
    """Most that the files of one browser session may take here at a time, in 10^6 bytes, and a
    tenth of what all may; null takes five of the largest files."""
    max_clip_s: float = 60.0
    """Longest clip taken, in seconds."""
    keep_upload_s: float = 600.0
    """Seconds after which a file goes that nobody asked anything about; others go once their
    answer is there."""
    max_completion_length: int = 256
    """Most tokens an answer may have."""
    question: str | None = None
    """What is asked at first (the page can change it); null asks R1-Omni's question for the
    emotion."""
    labels: list[str] = field(default_factory=list)
    """What probabilities are over; empty takes dataset.labels."""
    absent: str = "drop"
    """What absent means: "drop" leaves the modality out of the prompt, "silence_grey" shows silence
    or a grey picture."""
    value: str = "prob"
    """v(S) of the Shapley bars: "prob" or "log_prob" of the answer, normalised over the labels."""
    lead: str = "own_reasoning"
    """What stands before the label then: "own_reasoning" what the model says under each subset (a
    generation a subset), "empty_think" or "direct" as in task=attribute: faster, but not of the
    reasoned answer."""
    split: str = "test"
    """Where the page's examples come from; a data set without it offers none."""
    num_examples: int = 6
    """How many it offers, each of another label as far as they go; 0 none."""

    def __post_init__(self) -> None:
        require(0 <= self.port < 2**16, "task.port", self.port, "0 (any free one) to 65535")
        for key in ("max_upload_mb", "max_clip_s", "keep_upload_s"):
            seen = self.__dict__[key]
            require(0 < seen < float("inf"), f"task.{key}", seen, "greater than 0")
        if self.max_session_mb is None:  # resolved here, for whoever reads it
            self.max_session_mb = 5 * self.max_upload_mb
        require(
            self.max_upload_mb <= self.max_session_mb < float("inf"),
            "task.max_session_mb",
            self.max_session_mb,
            f"task.max_upload_mb={self.max_upload_mb:g} or more",
        )
        seen = self.max_completion_length
        require(seen >= 1, "task.max_completion_length", seen, "1 or more")
        require(self.num_examples >= 0, "task.num_examples", self.num_examples, "0 or more")
        blank = self.question is not None and not self.question.strip()
        require(not blank, "task.question", self.question, "a question, or null")
        for key, choices in (
            ("absent", ("drop", "silence_grey")),
            ("value", ("log_prob", "prob")),
            ("lead", tuple(LEADS)),
        ):
            seen = self.__dict__[key]
            require(seen in choices, f"task.{key}", seen, f"one of {', '.join(choices)}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK


def _require_penalty(value: float) -> None:
    require(1 <= value < float("inf"), "task.repetition_penalty", value, "1 (off) or more")
