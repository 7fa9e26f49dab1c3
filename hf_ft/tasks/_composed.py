"""A task that is composed of an input and a target.

A task file names the input, the target, the roles with their usual columns, and the keys of the recipe; this
module joins them. Your own task can be composed in the same way, or inherit from `Task` directly.
"""
# mypy: disable-error-code="override"
# Class attributes of Task are properties here, which read the attribute of the input or the target.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hf_ft.data.labels import find_problem
from hf_ft.errors import DataError, RecipeError
from hf_ft.evaluate.classical import model_name, sample_rows
from hf_ft.inputs.base_input import Input
from hf_ft.recipe.joined_section import joined_section
from hf_ft.targets.base_target import Target
from hf_ft.task import (
    MOVING,
    Batch,
    Inspection,
    Item,
    Metrics,
    Preview,
    Row,
    SimpleFeatures,
    Task,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.recipe.schema import ModelSection, Section
    from hf_ft.task import Loaded

# The reason for the choice of the target, where the recipe or the task decides it.
AS_WRITTEN = "as the recipe says"


def _delegated_to(part: str, name: str) -> Any:
    """Make a property of the task that reads and writes an attribute of its input or its target."""

    def get(task: ComposedTask) -> Any:
        return getattr(getattr(task, part), name)

    def set_to(task: ComposedTask, value: Any) -> None:
        setattr(getattr(task, part), name, value)

    return property(get, set_to)


class ComposedTask(Task):
    """Base class of tasks that are composed of an input and a target.

    Where a task has several targets, `task.problem` chooses one; without it, the training labels decide.
    """

    input_class: ClassVar[type[Input]]
    target_classes: ClassVar[Sequence[type[Target]]]
    # Names of the model's output that holds the answer; the first name that the output has is used.
    outputs: ClassVar[Sequence[str]] = ("logits",)
    # The key of the encoded target, in items and batches.
    target_key: ClassVar[str] = "labels"

    input: Input
    target: Target

    def __init_subclass__(cls, **keywords: Any):
        """Join the recipe's sections of the input and the targets, where the task does not set its own."""
        super().__init_subclass__(**keywords)
        if not {"input_class", "target_classes"} & set(vars(cls)):
            return
        problems = [target.problem for target in cls.target_classes]
        sections = {
            "Options": joined_section(
                [cls.input_class.Options, *(target.Options for target in cls.target_classes)],
                choices={"problem": problems} if len(problems) > 1 else {},
            ),
            "Augment": cls.input_class.Augment,
            "Loss": joined_section([target.Loss for target in cls.target_classes]),
        }
        for name, section in sections.items():
            if name not in vars(cls):
                setattr(cls, name, section)

    def __init__(
        self,
        options: Section | None = None,
        augment: Section | None = None,
        loss: Section | None = None,
        extra_metrics: Sequence[str] = (),
    ):
        super().__init__(options, augment, loss, extra_metrics)
        self.input = self.input_class(self.options, self.augment)
        several = len(self.target_classes) > 1
        problem = self.options.problem if several else self.target_classes[0].problem
        # Whether the target is chosen; otherwise `fit` chooses it from the training labels.
        self.is_settled = problem is not None
        self._use_target(problem or self.target_classes[0].problem)
        self.reason = AS_WRITTEN
        # The training rows that the classical model was fitted on; its name -> a function that answers rows.
        self._classical: tuple[Any, dict[str, Callable[[Any], list[Any]]]] | None = None

    def _use_target(self, problem: str) -> None:
        """Choose the target of a problem; refuse keys that the recipe sets for another problem."""
        chosen = next(one for one in self.target_classes if one.problem == problem)
        others = [one for one in self.target_classes if one is not chosen]
        sections = [
            ("task", self.options, chosen.Options, [one.Options for one in others]),
            ("loss", self.loss_options, chosen.Loss, [one.Loss for one in others]),
        ]
        for name, section, own, foreign in sections if self.is_settled else ():
            keys = {key for one in foreign for key in one.model_fields} - set(own.model_fields)
            for key in sorted(keys):
                if getattr(section, key) != type(section).model_fields[key].get_default(
                    call_default_factory=True
                ):
                    raise RecipeError(
                        f"{name}.{key}: has no effect with the problem {problem}; remove the key"
                    )
        role = next(name for name, role in self.roles.items() if role.target)
        self.target = chosen(self.options, self.loss_options, role, self.target_key)

    # Attributes that the input alone, or the target alone, decides.
    processor = _delegated_to("input", "processor")
    shortcuts = _delegated_to("input", "shortcuts")
    length_key = _delegated_to("input", "length_key")
    encodes_in_threads = _delegated_to("input", "encodes_in_threads")
    is_random = _delegated_to("input", "is_random")
    mixes = _delegated_to("input", "mixes")
    mixed_with = _delegated_to("input", "mixed_with")
    load_processor = _delegated_to("input", "load_processor")
    times = _delegated_to("input", "times")
    examples = _delegated_to("input", "examples")
    lengths = _delegated_to("input", "lengths")
    finish = _delegated_to("input", "finish")
    read_inputs = _delegated_to("input", "read_inputs")
    input_note = _delegated_to("input", "input_note")
    traits = _delegated_to("input", "traits")
    pipeline_input = _delegated_to("input", "pipeline_input")
    example_input = _delegated_to("input", "example")
    main_metric = _delegated_to("target", "main_metric")
    headline_metrics = _delegated_to("target", "headline_metrics")
    labels = _delegated_to("target", "labels")
    count = _delegated_to("target", "count")
    has_loss = _delegated_to("target", "has_loss")
    summarize = _delegated_to("target", "summarize")
    groups = _delegated_to("target", "groups")
    calibrate = _delegated_to("target", "calibrate")
    decode = _delegated_to("target", "decode")
    describe = _delegated_to("target", "describe")
    decode_reference = _delegated_to("target", "decode_reference")
    difference = _delegated_to("target", "difference")
    references = _delegated_to("target", "references")
    figures = _delegated_to("target", "figures")
    fits_classical = _delegated_to("target", "fits_classical")

    @property
    def greater_is_better(self) -> Mapping[str, bool]:
        """The direction of every metric of the target, or of all possible targets until one is chosen."""
        possible = [self.target] if self.is_settled else self.target_classes
        return {name: up for one in possible for name, up in one.greater_is_better.items()}

    @property
    def class_role(self) -> str | None:
        """The role whose values are classes."""
        return self.target.role if self.target.has_classes else None

    @property
    def targets(self) -> tuple[str, ...]:
        """The key of the encoded target in a batch."""
        return (self.target.key,)

    @property
    def side_keys(self) -> tuple[str, ...]:
        """Further keys of a batch that the model does not get."""
        return (*self.input.side_keys, *self.target.side_keys)

    @property
    def media_roles(self) -> tuple[str, ...]:
        """The roles whose media can be cached decoded."""
        return (*self.input.media_roles, *self.target.media_roles)

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """The pipeline options of the input; None without classes: a pipeline cannot unscale numbers."""
        return None if self.labels() is None else self.input.pipeline_options

    @property
    def supports_batch_encode(self) -> bool:
        """Whether the task, its input and its target all support `encode_batch`."""
        return super().supports_batch_encode and all(part.supports_batch_encode for part in self.parts())

    def parts(self) -> list[Any]:
        """Return the input and the target; their source code is part of every cache key."""
        return [self.input, self.target]

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Check the input of a row and, if the target is chosen, the value of the target."""
        found = self.input.inspect(row)
        if found.problem is None and self.is_settled and self.target.role in row:
            problem = self.target.inspect(row[self.target.role])
            if problem is not None:
                return Inspection(problem=f"row {row['id']}: {problem}")
        return found

    def fit(self, train: Any) -> None:
        """Choose the target if there are several, then let the input and the target learn from the rows."""
        if not self.is_settled:
            problems = [one.problem for one in self.target_classes]
            problem, self.reason = find_problem(train.column(self.target.role), problems)
            self.is_settled = True
            self._use_target(problem)
            # The audit ran before the target was chosen, so it did not check the target values.
            bad = self._bad_values(train)
            if bad:
                self._fit_without(bad, train)
                return
        self.input.fit(train)
        self.target.fit(train)

    def _fit_without(self, bad: Mapping[int, str], train: Any) -> None:
        """Let input and target learn from the other rows; an error says which rows are missing, and why."""
        good = train.select([index for index in range(len(train)) if index not in bad])
        try:
            if not len(good):
                raise DataError("train: no row has a value that can be learned")
            self.input.fit(good)
            self.target.fit(good)
        except DataError as error:
            first, why = next(iter(bad.items()))
            raise DataError(
                f"{error}\n{len(bad)} of {len(train)} training rows cannot be used, such as "
                f"{train.ids[first]}: {why}"
            ) from error

    def check(self, split: str, rows: Any) -> dict[int, str]:
        """Find rows that do not fit what the input and the target learned."""
        bad = self._bad_values(rows) if self.reason != AS_WRITTEN else {}
        bad |= self.input.check(split, rows)
        self.target.check(
            split, rows.select([index for index in range(len(rows)) if index not in bad]) if bad else rows
        )
        return bad

    def _bad_values(self, rows: Any) -> dict[int, str]:
        """Find values that the target cannot use: position -> why."""
        found = map(self.target.inspect, rows.column(self.target.role))
        return {index: problem for index, problem in enumerate(found) if problem is not None}

    def state(self) -> dict[str, Any]:
        """Return what input and target learned, and the problem where the task has several."""
        settled = {"problem": self.target.problem} if len(self.target_classes) > 1 else {}
        return {**settled, **self.input.state(), **self.target.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `fit` would learn from the values that `state` returned."""
        self.is_settled = True
        self._use_target(state.get("problem", self.target.problem))
        self.input.restore(state)
        self.target.restore(state)

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """List the problem where the task has several, and the notes of the input and the target."""
        chosen = [f"problem: {self.target.problem}, {self.reason}"] if len(self.target_classes) > 1 else []
        return [*chosen, *self.input.notes(rows), *self.target.notes(rows)]

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load the model and its processor, and initialise the head."""
        loaded = self.input.load(self.auto_class, section, self.target.config)
        loaded.notes += self.target.prepare(loaded)
        return loaded

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Encode the inputs of the rows and, where a row has the target role, the target."""
        labelled = [self.target.role in row for row in rows]
        moving = [self.target.moving(row) if has else {} for row, has in zip(rows, labelled, strict=True)]
        given = [{**row, MOVING: one} if one else row for row, one in zip(rows, moving, strict=True)]
        items = self.input.encode(given, rngs)
        for row, item, has in zip(rows, items, labelled, strict=True):
            if has:
                item |= self.target.encode_row(row, item)
            item.pop(MOVING, None)
        return items

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Encode inputs and targets of many rows at once, if both support it for these rows."""
        inputs = self.input.encode_batch(rows, indices)
        if inputs is None:
            return None
        targets = self.target.encode_batch(rows, indices)
        return None if targets is None else {**inputs, **targets}

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode the media of the input and of the target."""
        found = [part.media(rows, preprocessed=preprocessed) for part in self.parts()]
        if any(part is None for part in found):
            return None
        return [{**one, **other} for one, other in zip(*found, strict=True)]

    def media_numbers(self, row: Row) -> int:
        """Count the uint8 values of all decoded media of a row."""
        return self.input.media_numbers(row) + self.target.media_numbers(row)

    def mix(self, item: Item, others: Sequence[Item], rng: np.random.Generator) -> Item:
        """Mix the inputs of items, and their targets with the same shares."""
        key, items = self.target.key, [item, *others]
        mixed, shares = self.input.mix(items, rng)
        return {**mixed, key: self.target.mix([one[key] for one in items], shares)}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack inputs and, where the items have them, targets."""
        known = self.target.key in items[0]
        own = {self.target.key, *self.target.side_keys}
        inputs = [{key: value for key, value in item.items() if key not in own} for item in items]
        return {**self.input.collate(inputs), **(self.target.collate(items) if known else {})}

    def answer(self, outputs: Any) -> Any:
        """Select the model output that the target needs, in float32."""
        return next(outputs[name] for name in self.outputs if name in outputs).float()

    def loss(self, model: Any, outputs: Any, batch: Batch) -> torch.Tensor:
        """Compute the target's loss of each row, float [B]."""
        return self.target.loss(model, self.answer(outputs), batch)

    def predict(self, model: Any, outputs: Any, batch: Batch) -> list[Any]:
        """Return the target's result of each row."""
        return self.target.predict(model, self.answer(outputs), batch)

    # Evaluation

    def metrics(self) -> Metrics:
        """Make the object that computes the target's metrics."""
        return self.target.metrics(self.extra_metrics)

    def baselines(self, train: Any, rows: Any) -> dict[str, list[Any]]:
        """Answer rows with the target's trivial baselines and, where possible, a classical model."""
        found = self.target.baselines(train, rows)
        if self._classical is None or self._classical[0] is not train:
            self._classical = train, self._fit_classical(train)
        return found | {name: answer(rows) for name, answer in self._classical[1].items()}

    def _fit_classical(self, train: Any) -> dict[str, Callable[[Any], list[Any]]]:
        """Fit a classical model on (a sample of) the training rows: name -> function that answers rows."""
        chosen = sample_rows(len(train), len(self.target.labels() or [""]))
        few = train if len(chosen) == len(train) else train.select(chosen.tolist())
        features = self.input.simple_features(few)
        found = None if features is None else self.fit_classical(features, few)
        if found is None:
            return {}
        sampled = f", fitted on {len(few):,} of {len(train):,} rows" if len(few) < len(train) else ""
        return {found[0] + sampled: found[1]}

    def fit_classical(
        self, features: SimpleFeatures, rows: Any
    ) -> tuple[str, Callable[[Any], list[Any]]] | None:
        """Fit the classical model of the target."""
        answer = self.target.fit_classical(features, self.target.references(rows))
        if answer is None:
            return None
        return model_name(features, classes=self.target.labels() is not None), answer

    def preview(self, row: Row, result: Any, reference: Any) -> Preview | None:
        """Show a row with the answer drawn into it if the target can, else the input alone."""
        return self.target.preview(row, result, reference) or self.input.preview(row)

    # Prediction
