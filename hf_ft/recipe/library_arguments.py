"""Read the names and types of the keys that transformers and PEFT define from their source code.

Importing TrainingArguments takes over five seconds and imports torch; parsing its file takes a few hundredths
of a second. No key is copied by hand, so the keys of a recipe are those of the installed versions.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union

from pydantic import Field

from hf_ft.errors import RecipeError

PLAIN_TYPES: dict[str, Any] = {
    "int": int,
    "float": Annotated[float, Field(allow_inf_nan=False)],
    "bool": bool,
    "str": str,
    "Any": Any,
    "dict": dict[str, Any],
    "list": list[Any],
    "None": None,
}

# Bounds of keys that transformers does not check: values outside of them are always mistakes.
BOUNDS: dict[str, Any] = {
    "max_steps": Field(ge=1),
    "adam_beta1": Field(ge=0, lt=1),
    "adam_beta2": Field(ge=0, lt=1),
    "adam_epsilon": Field(gt=0),
    "max_grad_norm": Field(ge=0),
    "neftune_noise_alpha": Field(ge=0),
    "torch_empty_cache_steps": Field(ge=1),
    "logging_steps": Field(gt=0),
    "eval_steps": Field(gt=0),
    "eval_delay": Field(ge=0),
    "eval_accumulation_steps": Field(ge=1),
    "per_device_eval_batch_size": Field(ge=1),
    "save_total_limit": Field(ge=1),
    "dataloader_num_workers": Field(ge=0),
    "dataloader_prefetch_factor": Field(ge=1),
    "ddp_timeout": Field(ge=1),
    "ddp_bucket_cap_mb": Field(ge=1),
}

LOG_LEVELS = Literal["debug", "info", "warning", "error", "critical", "passive"]

# Trackers whose package has another name: tracker -> (modules, one of which must be installed; package).
# Kubeflow reads its settings from the environment and needs no package.
TRACKER_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "azure_ml": (("azureml.core",), "azureml-mlflow"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "flyte": (("flytekit",), "flytekit"),
    "kubeflow": ((), ""),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
}

PROMPT = (
    "trains tokens in the prompt of a language model instead of its layers, and no task of hf_ft has a prompt"
)
# PEFT methods that have target modules but cannot be used by hf_ft -> the reason.
UNUSABLE_METHODS = {
    "adalora": "needs its own training loop (ranks, orthogonality term); use lora or dora",
    "adaption_prompt": PROMPT,
    "lily": "cannot be merged into the model; use lora or dora",
    "poly": "needs a task number for every row",
    "shadow": "works only on decoder-only language models",
    "trainable_tokens": "trains rows of an embedding and cannot train a new head; use lora",
    "xlora": "mixes LoRA adapters that were trained before",
}


@dataclass(frozen=True)
class Argument:
    """One argument of a library: its type, its help text, and its default if that is a plain value."""

    type: Any
    help: str | None = None
    default: Any = None


@functools.cache
def training_arguments() -> Mapping[str, Argument]:
    """Read the fields of transformers.TrainingArguments."""
    folder = package_folder("transformers")
    enums = {**enumerations(folder / "trainer_utils.py"), **enumerations(folder / "training_args.py")}
    found = class_fields(folder / "training_args.py", "TrainingArguments", enums)
    for name in ("log_level", "log_level_replica"):
        found[name] = Argument(LOG_LEVELS, found[name].help)
    return MappingProxyType({name: bounded(name, argument) for name, argument in found.items()})


@functools.cache
def schedules() -> tuple[str, ...]:
    """List the values of lr_scheduler_type: those of transformers, and `exponential`, which hf_ft adds."""
    enums = enumerations(package_folder("transformers") / "trainer_utils.py")
    return (*enums["SchedulerType"], "exponential")


@functools.cache
def trackers() -> tuple[str, ...]:
    """List the experiment trackers that the Trainer can report to."""
    file = package_folder("transformers") / "integrations" / "integration_utils.py"
    for node in parse(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK":
            return tuple(key.value for key in node.value.keys if isinstance(key, ast.Constant))  # type: ignore[attr-defined, misc]
    raise RecipeError(f"train.report_to: {file} has no table of trackers; use a version that hf_ft supports")


def missing_package(tracker: str) -> str | None:
    """Return the package of a tracker if it is not installed; None if nothing is missing."""
    modules, package = TRACKER_PACKAGES.get(tracker, ((tracker,), tracker))
    return None if not modules or any(map(is_installed, modules)) else package


def installed_trackers() -> list[str]:
    """List the trackers whose package is installed."""
    return [name for name in trackers() if name != "kubeflow" and missing_package(name) is None]


def is_installed(module: str) -> bool:
    """Tell whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is missing
        return False


@functools.cache
def peft_methods() -> Mapping[str, tuple[Path, str]]:
    """Find every method that PEFT registers: name -> (file and class of its configuration)."""
    methods = {}
    for file in sorted((package_folder("peft") / "tuners").glob("*/__init__.py")):
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                name, config = ast.literal_eval(given["name"]), ast.unparse(given["config_cls"])
                methods[name] = (file.with_name("config.py"), config)
    return MappingProxyType(methods)


@functools.cache
def unusable_method(name: str) -> str | None:
    """Say why hf_ft cannot use a PEFT method as freezing strategy; None if it can."""
    if name in UNUSABLE_METHODS:
        return UNUSABLE_METHODS[name]
    classes = {node.name for node, _ in class_chain(*peft_methods()[name])}
    if "PromptLearningConfig" in classes:
        return PROMPT
    return None if "target_modules" in method_arguments(name) else "has no target modules"


@functools.cache
def usable_methods() -> tuple[str, ...]:
    """List the PEFT methods that can be a freezing strategy; `dora` is LoRA with use_dora."""
    return tuple(sorted(["dora", *(name for name in peft_methods() if unusable_method(name) is None)]))


@functools.cache
def method_arguments(name: str) -> Mapping[str, Argument]:
    """Read the fields of a PEFT method's configuration, without those that need an object of PEFT."""
    file, config = peft_methods()["lora" if name == "dora" else name]
    found: dict[str, Argument] = {}
    for _, owner in reversed(class_chain(file, config)):
        found |= class_fields(owner[0], owner[1], enumerations(owner[0]))
    if name == "dora":
        del found["use_dora"]
    return MappingProxyType({key: bounded(key, argument) for key, argument in found.items()})


def bounded(name: str, argument: Argument) -> Argument:
    """Add the bounds of a key to its type."""
    bound = BOUNDS.get(name)
    if name == "r":  # 0 is allowed only where it is the default: OFT then uses its block size.
        bound = Field(ge=0 if argument.default == 0 else 1)
    elif name.endswith("dropout"):
        bound = Field(ge=0, lt=1)
    if bound is None:
        return argument
    return Argument(Annotated[argument.type, bound], argument.help, argument.default)


def package_folder(name: str) -> Path:
    """Find the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"the package {name} is not installed; run: pip install {name}")
    return Path(spec.submodule_search_locations[0])


@functools.cache
def parse(file: Path) -> ast.Module:
    """Parse a Python file once."""
    return ast.parse(file.read_text(encoding="utf-8"))


def classes(file: Path) -> Iterator[ast.ClassDef]:
    """Return the classes at the top level of a file."""
    return (node for node in parse(file).body if isinstance(node, ast.ClassDef))


def enumerations(file: Path) -> dict[str, tuple[str, ...]]:
    """Read the enumerations of a file: name -> values."""
    found = {}
    for node in classes(file):
        if any("Enum" in ast.unparse(base) for base in node.bases):
            assigned = [item.value for item in node.body if isinstance(item, ast.Assign)]
            found[node.name] = tuple(
                str(value.value) for value in assigned if isinstance(value, ast.Constant)
            )
    return found


def class_chain(file: Path, name: str) -> list[tuple[ast.ClassDef, tuple[Path, str]]]:
    """Return a configuration class and its base classes in PEFT, the class itself first."""
    node = next(node for node in classes(file) if node.name == name)
    chain = [(node, (file, name))]
    for base in map(ast.unparse, node.bases):
        if base == "PeftConfig":
            continue
        if base == "PromptLearningConfig":
            owner = package_folder("peft") / "config.py"
        else:
            files = (package_folder("peft") / "tuners").rglob("*.py")
            owner = next(path for path in files if f"\nclass {base}(" in path.read_text(encoding="utf-8"))
        chain += class_chain(owner, base)
    return chain


def class_fields(file: Path, name: str, enums: Mapping[str, tuple[str, ...]]) -> dict[str, Argument]:
    """Read the annotated fields of a class, without those whose type YAML cannot express."""
    node = next(node for node in classes(file) if node.name == name)
    found = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            members = union_members(item.annotation, enums)
            if any(member is not None for member in members):
                found[item.target.id] = Argument(Union[tuple(members)], *help_and_default(item.value))  # noqa: UP007
    return found


def union_members(node: ast.expr, enums: Mapping[str, tuple[str, ...]]) -> list[Any]:
    """Turn an annotation into the types that YAML can express; other types give an empty list."""
    text = ast.unparse(node)
    if text in PLAIN_TYPES:
        return [PLAIN_TYPES[text]]
    if text in enums:
        return [Literal[enums[text]]]
    if isinstance(node, ast.BinOp):
        return without_loose_text([*union_members(node.left, enums), *union_members(node.right, enums)])
    if not isinstance(node, ast.Subscript):
        return []
    outer = ast.unparse(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if outer == "Literal":
        values = tuple(ast.literal_eval(value) for value in inner)
        # A value such as 'pissa_niter_[number of iters]' stands for many values.
        return [str] if any("[" in str(value) for value in values) else [Literal[values]]
    parts = [union_members(part, enums) for part in inner]
    if outer in ("Union", "Optional"):
        return without_loose_text([*chain.from_iterable(parts), *([None] if outer == "Optional" else [])])
    if not all(parts) or outer not in ("list", "tuple", "dict"):
        return []
    types = [Union[tuple(part)] for part in parts]  # noqa: UP007
    return [dict[types[0], types[1]]] if outer == "dict" else [list[Union[tuple(types)]]]  # type: ignore[misc,valid-type]  # noqa: UP007


def without_loose_text(members: list[Any]) -> list[Any]:
    """Drop `str` beside an enumeration: there it stands only for the values of the enumeration."""
    has_names = any(isinstance(value, str) for member in members for value in getattr(member, "__args__", ()))
    return [member for member in members if not (member is str and has_names)]


def help_and_default(node: ast.expr | None) -> tuple[str | None, Any]:
    """Read the help text and the plain default out of `field(default=..., metadata={"help": ...})`."""
    if not isinstance(node, ast.Call):
        return None, node.value if isinstance(node, ast.Constant) else None
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    default, metadata = given.get("default"), given.get("metadata")
    texts = [
        value.value
        for key, value in (
            zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
        )
        if isinstance(key, ast.Constant) and key.value == "help" and isinstance(value, ast.Constant)
    ]
    return (str(texts[0]) if texts else None), (default.value if isinstance(default, ast.Constant) else None)
