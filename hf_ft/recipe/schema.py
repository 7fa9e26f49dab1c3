"""The sections of a recipe: one pydantic model each, a docstring per field, unknown keys refused.

The sections `augment` and `loss`, and the options inside `task`, belong to the task;
`task_schema.recipe_model` puts the task's own models in their places, and gives `freeze` and `train` the keys
that PEFT and transformers define. The docstring of a field is its only description: `hf-ft init` and `hf-ft
schema` print it. Nothing here imports torch or transformers.
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
    """A section of a recipe: immutable, strictly typed, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    # Fields that are handed on to a library: written to the resolved recipe only where the user set them.
    passed_on: ClassVar[frozenset[str]] = frozenset()

    def resolved(self) -> dict[str, Any]:
        """Give the section as plain values with every default written out."""
        names = [
            name
            for name in type(self).model_fields
            if name not in self.passed_on or name in self.model_fields_set
        ]
        values = {name: getattr(self, name) for name in names}
        return {name: v.resolved() if isinstance(v, Section) else v for name, v in values.items()}


def problem(message: str, **context: Any) -> PydanticCustomError:
    """Make an error whose text reaches the user as it is."""
    return PydanticCustomError("hf_ft", "{message}", {"message": message, **context})


class SplitSection(Section):
    """How the rows are divided into train, validation and test."""

    validation: Fraction | PositiveInt | str | None = 0.1
    """A fraction or count drawn from train; or the name of a split of the source; null: none."""
    test: Fraction | PositiveInt | str | None = None
    """As above. The final figure is measured on test; without one, on validation, and the report says so."""
    by: str | None = None
    """Keep rows with the same value of this column in one split (a patient, a track); `time`: by time."""
    stratify: bool = True
    """Keep the class proportions in every drawn split, where the task has classes."""


# What `data.source` says where rows were given in Python.
IN_MEMORY = "rows given in Python"


class DataSection(Section):
    """Where the rows come from and which column plays which role."""

    source: str | dict[str, str]
    """Hub id, folder, file, glob, https address, `sample:NAME`, `py:module:function`; or {split: source}."""
    config: str | None = None
    """A configuration of the Hub data set (or of a folder whose README.md declares several)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """role -> column name(s) of the source, where the names differ from the roles of the task."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """What parts several labels in one cell of text, such as `;` in `red;round`; null: one label a cell."""
    id: str | None = None
    """Column whose values name the rows in every message and in predictions.parquet."""
    split: SplitSection = SplitSection()
    """How train, validation and test are made."""
    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    """Use only these rows of the training source, [first, end], the end not included; null: all."""
    limit: Fraction | PositiveInt | dict[str, Fraction | PositiveInt] | None = None
    """A seeded sample of the training rows: a count, or a fraction; or {split: count or fraction}."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be read: stop, or leave out (at most 1 % of them)."""
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
        """How many rows of each split are used at most, by `limit`: split -> count or fraction."""
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
    """Overrides of the saved processor; what is written here is saved with the model."""
    attn_implementation: Literal[
        "auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = "auto"
    """How attention is computed, by transformers' names; auto: its default for the model, mostly sdpa."""

    @field_validator("name")
    @classmethod
    def _expand_name(cls, value: str) -> str:
        return expand_home(value)


class FreezeSection(Section):
    """Which weights learn. A PEFT method adds the fields of its configuration (`r`, `lora_alpha`, ...)."""

    strategy: str = "full"
    """full | head | last | patterns | a PEFT method with target modules (lora, dora, ia3, vera, oft, ...)."""
    n: PositiveInt | None = None
    """For `last`: how many of the last blocks learn, beside the head."""
    patterns: Annotated[list[str], Field(min_length=1)] | None = None
    """For `patterns`: parameters whose names match one of these learn (globs or regular expressions)."""
    head_lr_multiplier: PositiveFloat = 1.0
    """The new head learns at this many times the learning rate of the rest."""
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
                f"only strategy {owner} has this key, and the strategy is {strategy}; remove the key"
            )
        return value

    @property
    def method_options(self) -> dict[str, Any]:
        """The fields of the PEFT configuration that the recipe sets; the others keep PEFT's defaults."""
        return {name: getattr(self, name) for name in sorted(self.passed_on & self.model_fields_set)}

    def resolved(self) -> dict[str, Any]:
        """Leave out the keys that the strategy does not use."""
        values = super().resolved()
        return {key: v for key, v in values.items() if key not in ("n", "patterns") or v is not None}


class TrainSection(Section):
    """How the model is trained. Every other name of transformers.TrainingArguments is a key here too."""

    num_train_epochs: Auto | PositiveFloat = "auto"
    """Passes over the training rows, at most; auto: chosen from the number of rows and the strategy."""
    global_batch_size: Auto | PositiveInt = "auto"
    """Rows per optimizer step, over all processes and accumulation; auto: 8 to 32, by the number of rows."""
    per_device_train_batch_size: PositiveInt | None = None
    """Upper bound of the rows that one device handles at a time; null: as many as the step needs."""
    learning_rate: Auto | PositiveFloat = "auto"
    """auto: the default of the strategy, the optimizer and the network, printed with its reason."""
    lr_scheduler_type: str = "cosine"
    """cosine | linear | constant | exponential (lr_scheduler_kwargs: {final: 0.01}) | any of the Trainer."""
    warmup_steps: NonNegativeFloat = 0.1
    """Below 1 a share of all steps, otherwise a number of steps."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled L2 decay of the weights; biases and norm layers have none."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device has it and, on a CPU, is measured to be faster with it; else fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model with torch.compile; auto: only where it is known to pay within the run."""
    memory_format: Literal["auto", "channels_last", "contiguous_format"] = "auto"
    """How images lie in memory; auto: channels_last for networks with four 2-d convolutions or more."""
    allocator: Literal["auto", "system"] = "auto"
    """auto: on a CPU, memory that a step frees stays with the process for the next one; system: never."""
    threads: Auto | PositiveInt = "auto"
    """Threads of the CPU; auto: all where a micro-batch is measured to be surely faster on all, else one."""
    batch_norm_rows: Annotated[int, Field(ge=0)] = 1024
    """Before each evaluation, batch norms that learn take their statistics from this many training rows, as
    they are without augmentation; 0: keep the running averages of training."""
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When the validation split is evaluated, and a checkpoint written: each has its measure."""
    early_stopping_patience: Auto | PositiveInt | None = "auto"
    """Stop after so many evaluations in which neither the main metric nor the validation loss improved; auto:
    4, or 10 for a head; null: never."""
    early_stopping_threshold: NonNegativeFloat = 0.0
    """By how much the main metric must improve to count; above 0, the validation loss does not count."""

    # What hf_ft adds to TrainingArguments, or translates for it.
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
        """What is handed to TrainingArguments: the keys the recipe sets, and hf_ft's own defaults."""
        return {name: value for name, value in self.resolved().items() if name not in self.own}


class EvaluateSection(Section):
    """What is measured, and what decides which checkpoint is best."""

    metric: str | None = None
    """The metric that picks the best checkpoint and heads the report; null: the task's main metric."""
    mode: Literal["min", "max"] | None = None
    """Needed only for a metric whose direction the task does not know."""
    extra: list[str] = Field(default_factory=list)
    """Further metrics: names on the Hub or paths of `evaluate` modules."""
    intervals: Literal["bootstrap", "none"] = "bootstrap"
    """Uncertainty of the main metric: percentile bootstrap over the rows, seeded."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """How often the rows are drawn again for the interval."""
    confidence: Fraction = 0.95
    """The share of the resampled values that the interval covers."""
    linear_probe: bool = True
    """Compare with a linear model on the pretrained features, where that costs under a tenth of training."""
    must_beat: Literal["baseline"] | None = None
    """baseline: the run fails, and keeps its files, unless the model is better than every baseline."""

    @field_validator("must_beat")
    @classmethod
    def _needs_intervals(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("intervals") == "none":
            raise problem(
                "needs the interval of the difference, and evaluate.intervals is none; write bootstrap"
            )
        return value


class PublishSection(Section):
    """Where the finished model goes on the Hub; the token comes from `hf auth login` or HF_TOKEN alone."""

    repo: str | None = None
    """A model repository on the Hub, namespace/name, made where there is none; null: nothing is published."""
    private: bool = True
    """Whether only its owners may see it. A repository that is there already keeps its visibility."""

    @field_validator("repo")
    @classmethod
    def _names_a_repository(cls, value: str | None) -> str | None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(value)
        except HFValidationError:
            raise problem(
                f"found {value!r}; expected namespace/name of letters, digits, `-`, `_` and `.`, neither "
                "`--` nor `..` in it, at most 96"
            ) from None
        return value


class CacheSection(Section):
    """What is computed once, kept on disk, and read again in every epoch and run."""

    activations: Literal["auto", "off"] = "auto"
    """Activations of frozen layers. auto: where the result is proved to be the same; off: never."""
    views: PositiveInt | None = None
    """Random augmentation: keep this many views of each row, seen in turn; null: new ones every epoch."""
    max_gb: PositiveFloat = 20.0
    """Most disk for all kept activations, and for all decoded pictures; the longest unused go first."""
    decoded: bool = False
    """Keep pictures decoded and, where nothing random comes before it, resized; pays for large files."""


class Empty(Section):
    """A section that a task does not offer: any key in it is refused."""


class Recipe(Section):
    """A whole recipe, validated. `recipe_model` narrows task, augment, freeze, loss and train."""

    task: Any
    """The task's name, or {name: ..., <options of the task>}."""
    name: str
    """What the run is called; default: the file's name."""
    output_dir: str
    """The run folder; default: runs/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 17
    """Seed of the split, the new head, the order of the rows, the augmentation and the bootstrap."""
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

    @field_validator("output_dir")
    @classmethod
    def _expand_output_dir(cls, value: str) -> str:
        return expand_home(value)

    def resolved(self) -> dict[str, Any]:
        """Give the recipe as plain values, every default written out, the task's name before its options."""
        values = super().resolved()
        return values | {"task": {"name": self.task.name} | values["task"]}

    @property
    def warnings(self) -> list[str]:
        """What is allowed and rarely meant, one line each."""
        rate, found = self.train.learning_rate, []
        if rate != "auto" and rate > 0.1:
            found.append(
                f"train.learning_rate: {rate:g} is far above what fine-tuning bears; usual are 1e-5 to 1e-2"
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

    def to_yaml(self) -> str:
        """Write the resolved recipe, every default of hf_ft spelled out; reading it gives an equal recipe."""
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
    """Replace a leading `~` by the home folder; nothing else in a recipe is expanded."""
    return str(Path(path).expanduser()) if path.startswith("~") else path
