"""The sections of a recipe: one pydantic model for each, with a docstring for each field.

The sections `augment` and `loss`, and the options inside `task`, belong to the task:
`task_schema.recipe_model` inserts the task's own models, and adds the keys that PEFT and transformers define
to `freeze` and `train`. `hf-ft init` and `hf-ft schema` print the docstrings of the fields. This module does
not import torch or transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from hf_ft.text_utils import SPLIT_WORDS, hint

Fraction = Annotated[float, Field(gt=0, lt=1)]
Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of a recipe: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    # Fields that are passed on to a library; the resolved recipe holds them only where the user set them.
    passed_on: ClassVar[frozenset[str]] = frozenset()

    def resolved(self) -> dict[str, Any]:
        """Return the section as plain values with every default written out."""
        names = [
            name
            for name in type(self).model_fields
            if name not in self.passed_on or name in self.model_fields_set
        ]
        values = {name: getattr(self, name) for name in names}
        return {name: v.resolved() if isinstance(v, Section) else v for name, v in values.items()}


def problem(message: str, **context: Any) -> PydanticCustomError:
    """Make a validation error whose message is shown to the user unchanged."""
    return PydanticCustomError("hf_ft", "{message}", {"message": message, **context})


class SplitSection(Section):
    """How the rows are divided into train, validation and test."""

    validation: Fraction | PositiveInt | str | None = 0.1
    """A fraction or count of rows drawn from train, or the name of a split of the source; null: none."""
    test: Fraction | PositiveInt | str | None = None
    """As validation. The final metric is measured on test, or on validation where there is no test split."""
    by: str | None = None
    """Keep rows with the same value of this column in one split (a patient, a track); `time`: by time."""
    stratify: bool = True
    """Keep the class proportions in every drawn split, where the task has classes."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the drawn splits and samples of rows; null: `seed` of the recipe."""


# The value of `data.source` where rows are passed in Python.
IN_MEMORY = "rows given in Python"


class DataSection(Section):
    """The source of the rows, the columns that hold the task's roles, and the splits."""

    source: str | dict[str, str]
    """Hub id, folder, file, glob, https address, `sample:NAME`, `py:module:function`; or {split: source}."""
    config: str | None = None
    """A configuration of the Hub data set (or of a folder whose README.md declares several)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """role -> column name(s) of the source, where the names differ from the roles of the task."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """Separator of several labels in one text cell, such as `;` in `red;round`; null: one label a cell."""
    id: str | None = None
    """Column with the ids of the rows, for messages and predictions.parquet."""
    split: SplitSection = SplitSection()
    """How the rows are divided into train, validation and test."""
    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    """Use only these rows of the training source, [first, end], without the end; null: all."""
    limit: Fraction | PositiveInt | dict[str, Fraction | PositiveInt] | None = None
    """Use a random sample of the training rows: a count or a fraction; or {split: count or fraction}."""
    on_bad: Literal["error", "skip"] = "error"
    """Rows that cannot be read: stop with an error; skip: leave them out (at most 1 % of the rows)."""
    duplicates: Literal["error", "drop_from_train", "report"] = "error"
    """Equal rows in two splits: error (above 1 %); drop_from_train; report: keep, measure without, too."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """`shuffle` visits every row once an epoch; `balanced` draws classes equally often, with replacement."""

    @field_validator("source")
    @classmethod
    def _expand_source(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(value, dict):
            if not value:
                raise problem(
                    "found no split; expected {split: source}, for instance {train: a.csv, test: b.csv}"
                )
            return {split: expand_home(source) for split, source in value.items()}
        return expand_home(value)

    @field_validator("limit")
    @classmethod
    def _limits_known_splits(cls, value: Any) -> Any:
        for split in value if isinstance(value, dict) else ():
            if split not in SPLIT_WORDS:
                raise problem(
                    f"found the split {split!r}; expected {', '.join(SPLIT_WORDS)}{hint(split, SPLIT_WORDS)}"
                )
        return value

    @property
    def limits(self) -> dict[str, float | int]:
        """The largest number of rows of each split, by `limit`: split -> count or fraction."""
        if self.limit is None:
            return {}
        return self.limit if isinstance(self.limit, dict) else {"train": self.limit}


class ModelSection(Section):
    """The pretrained model to start from."""

    name: str
    """Hub id, local folder, or `sample:NAME`."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    from_scratch: bool = False
    """Build from the configuration alone, with random weights."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the model's configuration (`hidden_dropout_prob: 0.2`)."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the processor's settings; they are saved with the model."""
    attn_implementation: Literal[
        "auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = "auto"
    """Implementation of attention, as transformers names it; auto: its default for the model, mostly sdpa."""

    @field_validator("name")
    @classmethod
    def _expand_name(cls, value: str) -> str:
        return expand_home(value)


class FreezeSection(Section):
    """Which weights are trained. A PEFT method adds its own keys (`r`, `lora_alpha`, ...)."""

    strategy: str = "full"
    """full | head | last | patterns | a PEFT method with target modules (lora, dora, ia3, vera, oft, ...)."""
    n: PositiveInt | None = None
    """For `last`: the number of last blocks that are trained, beside the head."""
    patterns: Annotated[list[str], Field(min_length=1)] | None = None
    """For `patterns`: globs or regular expressions; parameters whose names match one are trained."""
    head_lr_multiplier: PositiveFloat = 1.0
    """The learning rate of the new head, as a multiple of the learning rate of the other weights."""
    head_weight_decay: NonNegativeFloat | None = None
    """Weight decay of the head; null: the same as train.weight_decay."""

    @field_validator("n", "patterns")
    @classmethod
    def _belongs_to_strategy(cls, value: Any, info: ValidationInfo) -> Any:
        strategy, owner = (
            info.data.get("strategy"),
            {"n": "last", "patterns": "patterns"}[info.field_name or ""],
        )
        if value is not None and strategy != owner:
            raise problem(
                f"only the strategy {owner} has this key, and freeze.strategy is {strategy}; remove the key"
            )
        return value

    @property
    def method_options(self) -> dict[str, Any]:
        """The keys of the PEFT configuration that the recipe sets; the others keep PEFT's defaults."""
        return {name: getattr(self, name) for name in sorted(self.passed_on & self.model_fields_set)}

    def resolved(self) -> dict[str, Any]:
        """Return the section as plain values, without the keys that the strategy does not use."""
        values = super().resolved()
        return {key: v for key, v in values.items() if key not in ("n", "patterns") or v is not None}


class TrainSection(Section):
    """How the model is trained. The other names of transformers.TrainingArguments are keys here too."""

    num_train_epochs: Auto | PositiveFloat = "auto"
    """Largest number of passes over the training rows; auto: from the number of rows and the strategy."""
    global_batch_size: Auto | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    """Rows per optimizer step, over all processes and accumulation; auto: 8 to 32, by the number of rows."""
    per_device_train_batch_size: PositiveInt | None = None
    """Largest number of rows in one forward pass on one device; null: as many as the step needs."""
    learning_rate: Auto | PositiveFloat = "auto"
    """auto: from the strategy, the optimizer and the network; the choice is printed with its reason."""
    lr_scheduler_type: str = "cosine"
    """cosine | linear | constant | exponential (lr_scheduler_kwargs: {final: 0.01}) | any of the Trainer."""
    warmup_steps: NonNegativeFloat = 0.1
    """Below 1: a share of all steps; otherwise a number of steps."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled L2 decay of the weights; biases and norm layers have none."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device supports it and, on a CPU, timing shows that it is faster; else fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model with torch.compile; auto: off. On a GPU, try true for a long run."""
    memory_format: Literal["auto", "channels_last", "contiguous_format"] = "auto"
    """Memory format of images; auto: channels_last for networks with at least four 2-d convolutions."""
    allocator: Literal["auto", "system"] = "auto"
    """auto: on a CPU, keep the memory that a step frees for the next step; system: return it at once."""
    threads: Auto | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """CPU threads; auto: all if paired timing shows that a micro-batch is faster with all than with one."""
    batch_norm_rows: Annotated[int, Field(ge=0)] = 1024
    """Before each evaluation, compute the statistics of trained batch norms from this many training rows
    without augmentation; 0: use the running averages of training."""
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When to evaluate the validation split and write a checkpoint."""
    save_minutes: PositiveFloat | None = 30.0
    """Also write a checkpoint, without an evaluation, when the last one is this many minutes old."""
    early_stopping_patience: Auto | PositiveInt | None = "auto"
    """Stop after this many evaluations in which neither the main metric nor the validation loss improves;
    auto: 4, or 10 for a head and for a model from random weights; null: never."""
    early_stopping_threshold: NonNegativeFloat = 0.0
    """Smallest change of the main metric that counts as better; above 0, the validation loss is ignored."""

    # Keys that hf_ft adds to TrainingArguments, or translates for it.
    own: ClassVar[frozenset[str]] = frozenset(
        {
            "global_batch_size",
            "per_device_train_batch_size",
            "learning_rate",
            "precision",
            "compile",
            "allocator",
            "memory_format",
            "threads",
            "early_stopping_patience",
            "early_stopping_threshold",
            "batch_norm_rows",
            "save_minutes",
        }
    )

    @field_validator("early_stopping_patience")
    @classmethod
    def _needs_evaluation(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and info.data.get("eval_strategy") == "no":
            raise problem(
                "early stopping needs evaluations, and train.eval_strategy is no; write epoch or steps"
            )
        return value

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for TrainingArguments: the keys that the recipe sets, and hf_ft's own defaults."""
        return {name: value for name, value in self.resolved().items() if name not in self.own}


class EvaluateSection(Section):
    """Which metrics are computed, and which one decides the best checkpoint."""

    metric: str | None = None
    """The main metric, which decides the best checkpoint; null: the default of the task."""
    mode: Literal["min", "max"] | None = None
    """Whether the main metric is better when lower or higher; only for metrics unknown to the task."""
    extra: list[str] = Field(default_factory=list)
    """Further metrics: names or paths of modules of the package `evaluate`. They are code, which is run."""
    intervals: Literal["bootstrap", "none"] = "bootstrap"
    """Confidence interval of the main metric: percentile bootstrap over the rows, seeded."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Number of bootstrap samples."""
    confidence: Fraction = 0.95
    """Confidence level of the interval."""
    linear_probe: bool = True
    """Also compare with a linear model on the pretrained features, if it costs under 10 % of training."""
    must_beat: Literal["baseline"] | None = None
    """baseline: the run fails, but keeps its files, unless the model is better than every baseline."""

    @field_validator("must_beat")
    @classmethod
    def _needs_intervals(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("intervals") == "none":
            raise problem("needs a confidence interval; found evaluate.intervals: none; write bootstrap")
        return value


class PublishSection(Section):
    """Where to publish the model on the Hub; the token comes from `hf auth login` or HF_TOKEN."""

    repo: str | None = None
    """Model repository on the Hub, namespace/name; created if it does not exist; null: do not publish."""
    private: bool = True
    """Whether a new repository is private. An existing repository keeps its visibility."""

    @field_validator("repo")
    @classmethod
    def _names_a_repository(cls, value: str | None) -> str | None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(value)
        except HFValidationError:
            raise problem(
                f"found {value!r}; expected namespace/name of at most 96 letters, digits, `-`, `_` and `.`, "
                "without `--` and `..`"
            ) from None
        return value


class CacheSection(Section):
    """Caches on disk: values that are computed once and read in every epoch and run."""

    activations: Literal["auto", "off"] = "auto"
    """Activation cache of frozen layers; auto: where a test shows that the result is the same; off: never."""
    views: PositiveInt | None = None
    """Number of augmented views of each row to cache and use in turn; null: new augmentation every epoch."""
    max_gb: PositiveFloat = 20.0
    """Largest size of the activation cache, and of the cache of decoded pictures; the longest unused
    entries are deleted."""
    decoded: bool = False
    """Cache decoded pictures (resized too, unless augmentation is random); saves time with large files."""


class Empty(Section):
    """A section that the task does not have: any key in it is an error."""


class Recipe(Section):
    """A whole recipe, validated. `recipe_model` narrows task, augment, freeze, loss and train."""

    task: Any
    """The task's name, or {name: ..., <options of the task>}."""
    name: str
    """Name of the run; default: the file's name."""
    output_dir: str
    """The run folder; default: runs/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 17
    """Seed of the split, the new head, the order of the rows, the augmentation and the bootstrap."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=2)] | None = None
    """Train once with each of these seeds, on the split of `seed`: mean, spread, interval over both."""
    data: DataSection
    model: ModelSection
    freeze: FreezeSection = FreezeSection()
    augment: Any
    loss: Any
    train: TrainSection = TrainSection()
    cache: CacheSection = CacheSection()
    evaluate: EvaluateSection = EvaluateSection()
    publish: PublishSection = PublishSection()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[\w-][\w.-]*", value):
            raise problem(f"found {value!r}, which cannot name a run; use letters, digits, `_`, `-` and `.`")
        return value

    @field_validator("seeds")
    @classmethod
    def _are_different(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise problem(f"found {value}; expected different seeds, because equal ones give the same run")
        return value

    @field_validator("output_dir")
    @classmethod
    def _expand_output_dir(cls, value: str) -> str:
        return expand_home(value)

    def resolved(self) -> dict[str, Any]:
        """Return the recipe as plain values with every default written out, the task's name first."""
        values = super().resolved()
        return values | {"task": {"name": self.task.name} | values["task"]}

    @property
    def warnings(self) -> list[str]:
        """Warnings about valid values that are probably mistakes, one line each."""
        rate, found = self.train.learning_rate, []
        if rate != "auto" and rate > 0.1:
            found.append(
                f"train.learning_rate: {rate:g} is very high for fine-tuning; usual values are 1e-5 to 1e-2"
            )
        if (
            self.train.arguments.get("max_steps", -1) > 0
            and "num_train_epochs" in self.train.model_fields_set
        ):
            found.append("train.num_train_epochs: has no effect, because train.max_steps is set")
        if self.train.early_stopping_threshold > 0 and self.train.early_stopping_patience is None:
            found.append(
                "train.early_stopping_threshold: has no effect without train.early_stopping_patience"
            )
        return found

    def with_seed(self, seed: int) -> Recipe:
        """Return the recipe of one of `seeds`: the same split, a run folder of its own."""
        split = self.data.split
        fixed = split if split.seed is not None else split.model_copy(update={"seed": self.seed})
        return self.model_copy(
            update={
                "seed": seed,
                "seeds": None,
                "output_dir": f"{self.output_dir}/seed-{seed}",
                "data": self.data.model_copy(update={"split": fixed}),
            }
        )

    def to_yaml(self) -> str:
        """Write the recipe as YAML with every default of hf_ft; reading it gives an equal recipe."""
        from io import StringIO

        from ruamel.yaml import YAML

        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style, yaml.width = False, 4096
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.allow_unicode = True
        stream = StringIO()
        yaml.dump(self.resolved(), stream)
        return stream.getvalue()


def expand_home(path: str) -> str:
    """Replace a leading `~` by the home folder; environment variables are not expanded."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        raise problem(f"found {path!r}; the home folder is not known: {error}") from error
