"""Load a pretrained model with a head of the right size, and check that only the head has new weights.

transformers initialises weights that a checkpoint lacks at random, and only warns of it. Here its loading
report is checked: the run stops if a weight outside the head is missing, unexpected or of another shape.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.causes import naming
from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.errors import ModelError
from hf_ft.model.head import check_report, some
from hf_ft.model.pretrained import explain_errors, find_class, from_pretrained, near_setting, quiet
from hf_ft.task import Loaded

if TYPE_CHECKING:
    import torch

    from hf_ft.recipe.schema import ModelSection


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash names, types, shapes and bytes of tensors (SHA-256); only one tensor is copied at a time."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_without(model: Any, new: Sequence[str]) -> str:
    """Hash the weights that a model has from its checkpoint: all except the new ones."""
    new_names = set(new)
    return fingerprint((key, value) for key, value in model.state_dict().items() if key not in new_names)


def load_model(auto_class: str, section: ModelSection, config: Mapping[str, Any] | None = None) -> Loaded:
    """Load the model of a recipe in float32, with a head that fits the task.

    Set the random seed before: the weights of a new head are random.

    Args:
        auto_class: a class of transformers (`AutoModelForImageClassification`, `PatchTSTForRegression`), or
            `package.module:Class`.
        section: the section `model` of the recipe.
        config: settings of the model's configuration that the task decides (labels, number of outputs).

    Returns:
        The model, its new parameters and its source; the processor is None.

    Raises:
        ModelError: there is no such model, a setting of the configuration is unknown, or weights outside the
            head are missing, unexpected or of another shape.
    """
    name = find_model(section)
    settings = load_config(name, section, dict(config or {}))
    if section.attn_implementation != "auto":
        settings._attn_implementation = section.attn_implementation
    cls = find_class(auto_class)
    if section.from_scratch:
        with quiet(), explain_errors(section.name):
            model = cls.from_config(settings) if cls.__name__.startswith("Auto") else cls(settings)
        model = model.float().eval()
        new = [parameter for parameter, _ in model.named_parameters()]
        notes = ["built from its configuration with random weights: all of them are new"]
        return Loaded(model, new, _source(section, name, None), notes)
    model, report = from_pretrained(cls, name, section.name, config=settings, revision=section.revision)
    new, notes = check_report(model, report, section.name)
    taken = fingerprint_without(model, new)
    return Loaded(model, new, _source(section, name, taken), notes)


def load_saved(auto_class: str, folder: str | Path, **overrides: Any) -> Any:
    """Load a model folder that hf_ft saved, in eval mode.

    Args:
        auto_class: as for `load_model`.
        folder: the model folder.
        overrides: further arguments of `from_pretrained`.

    Raises:
        ModelError: the folder does not hold exactly the weights of its configuration.
    """
    model, report = from_pretrained(find_class(auto_class), str(folder), str(folder), **overrides)
    wrong = sorted(
        report["missing_keys"] | report["unexpected_keys"] | {key[0] for key in report["mismatched_keys"]}
    )
    if wrong:
        raise ModelError(
            f"{folder}: the saved weights do not fit their configuration: {some(wrong)} are missing, "
            f"unexpected or of another shape. The folder is damaged or was changed; save the model again"
        )
    return model


def find_model(section: ModelSection) -> str:
    """Resolve `model.name` to a folder, a Hub id, or a model type that is built from scratch.

    Raises:
        ModelError: there is no model of this name; the message names the nearest folder, sample and type.
    """
    from transformers import CONFIG_MAPPING

    from hf_ft.data.samples import model_samples

    name = resolve(section.name)
    if Path(name).is_dir() or (section.from_scratch and name in CONFIG_MAPPING):
        return name
    reason = why_not_on_hub(name, "model", section.revision)
    if reason is None:
        return name
    folders = [path.name for path in Path.cwd().iterdir() if (path / "config.json").is_file()]
    types = "{}, a model type" + ("" if section.from_scratch else " (with model.from_scratch: true)")
    known = {"sample:{}": model_samples(), "./{}, a folder": folders, types: list(CONFIG_MAPPING)}
    raise ModelError(
        f"model.name: there is no folder {name!r} (current folder: {Path.cwd()}), and {reason}"
        f"{did_you_mean(name, known)}"
    )


def resolve(name: str) -> str:
    """Turn `model.name` into an argument of `from_pretrained`: the path of a folder, or a Hub id.

    Raises:
        ModelError: the name is a path, and there is no model folder.
    """
    if name.startswith("sample:"):
        import torch

        from hf_ft.data.samples import sample_model

        # A sample is built on first use, which draws random numbers; the new head must not depend on that.
        with torch.random.fork_rng():
            return str(sample_model(name.removeprefix("sample:")))
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "model.safetensors").is_file():
            raise ModelError(
                f"model.name: {name!r} is an adapter without its model; name the merged model's folder"
            )
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model.name: there is no folder {name!r} (current folder: {Path.cwd()})")
    return name


def load_config(name: str, section: ModelSection, task_config: dict[str, Any]) -> Any:
    """Read a configuration and apply the settings of the recipe and the task.

    Args:
        name: folder, Hub id or model type, from `find_model`.
        section: the section `model` of the recipe.
        task_config: settings that the task decides.

    Raises:
        ModelError: a setting is unknown or set by the task, or there is no configuration of this name.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    for key in sorted(set(section.config) & {*task_config, "num_labels", "id2label", "label2id"}):
        raise ModelError(f"model.config.{key}: the task sets this from the training data; remove the key")
    overrides = {**section.config, **task_config}
    if section.from_scratch and name in CONFIG_MAPPING:
        return _typed_config(name, overrides)
    if "id2label" in overrides:  # otherwise a TimmWrapper has the number of classes of its checkpoint
        overrides["num_labels"] = len(overrides["id2label"])
    with quiet(), explain_errors(section.name):
        config, unused = AutoConfig.from_pretrained(
            name, revision=section.revision, trust_remote_code=False, return_unused_kwargs=True, **overrides
        )
    for key in sorted(set(unused) & set(overrides)):
        raise ModelError(
            f"model.config.{key}: {config.model_type} has no such setting"
            f"{near_setting(key, config.to_dict())}"
        )
    if config.model_type == "timm_wrapper":
        _configure_timm(config, section, "id2label" in overrides)
    return config


def _typed_config(model_type: str, settings: dict[str, Any]) -> Any:
    """Build the configuration of a model type (`patchtst`) with these settings and transformers' defaults."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[model_type]
    known = cls().to_dict()
    for key in sorted(set(settings) - set(known) - {"id2label", "label2id"}):
        raise ModelError(f"model.config.{key}: {model_type} has no such setting{near_setting(key, known)}")
    with explain_errors(model_type):
        return cls(**settings)


def _configure_timm(config: Any, section: ModelSection, labelled: bool) -> None:
    # The class names of a timm checkpoint are also in `label_names`, which would override id2label in the
    # saved model.
    if labelled and "label_names" in vars(config):
        del config.label_names
    # The processor of a TimmWrapper reads its settings from config.json and ignores overrides silently.
    config.pretrained_cfg = {**getattr(config, "pretrained_cfg", {}), **_timm_settings(section.processor)}


def _timm_settings(overrides: Mapping[str, Any]) -> dict[str, Any]:
    known = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    for key in sorted(set(overrides) - set(known)):
        raise ModelError(
            f"model.processor.{key}: a timm model's processor has no such setting{near_setting(key, known)}"
        )
    return dict(overrides)


def load_processor(
    auto_class: str, section: ModelSection, model: Any, image_size: int | None = None, **overrides: Any
) -> Any:
    """Load the processor of a model, with the settings of `model.processor` applied.

    Args:
        auto_class: `AutoImageProcessor`, `AutoTokenizer`, ..., or `package.module:Class`.
        section: the section `model` of the recipe.
        model: the loaded model; the configuration of a TimmWrapper holds the settings of its processor.
        image_size: side of the square image in pixels; None: as the processor has it.
        overrides: settings that the task decides.

    Raises:
        ModelError: there is no processor, or it has no such setting.
    """
    wanted = {**section.processor, **overrides}
    cls, name = find_class(auto_class), resolve(section.name)
    if model.config.model_type == "timm_wrapper":
        from transformers import TimmWrapperImageProcessor

        settings = _timm_settings(wanted)
        if image_size is not None:
            settings["input_size"] = [3, image_size, image_size]
        model.config.pretrained_cfg = {**model.config.pretrained_cfg, **settings}
        return TimmWrapperImageProcessor(model.config.pretrained_cfg, model.config.architecture)
    with quiet(), explain_errors(section.name):
        processor = cls.from_pretrained(name, revision=section.revision, trust_remote_code=False)
        known = {key for key in dir(processor) if not key.startswith("_")}
        for key in sorted(set(wanted) - known):
            raise ModelError(
                f"model.processor.{key}: {type(processor).__name__} has no such setting"
                f"{near_setting(key, known)}"
            )
        if image_size is not None:
            wanted |= _square_size(processor, image_size)
        if wanted:
            processor = cls.from_pretrained(
                name, revision=section.revision, trust_remote_code=False, **wanted
            )
    return processor


def processor_hash(processor: Any) -> str:
    """Hash the settings of a processor: the files that it saves; `none` for no processor."""
    if processor is None:
        return "none"
    if type(processor).__name__ == "TimmWrapperImageProcessor":  # it saves nothing
        settings = repr(sorted(processor.data_config.items()))
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
    with tempfile.TemporaryDirectory() as folder, naming(Path(folder)):
        processor.save_pretrained(folder)
        state = hashlib.blake2b(digest_size=16)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


def _square_size(processor: Any, side: int) -> dict[str, Any]:
    """Return the settings `size` and `crop_size` of a processor for images of side x side pixels."""
    square = {"height": side, "width": side}
    crop = bool(getattr(processor, "do_center_crop", False))
    # The crop after resizing keeps its share of the resized image.
    if crop and processor.crop_size and "shortest_edge" in processor.size:
        edge = round(processor.size["shortest_edge"] * side / processor.crop_size["height"])
        return {"size": {"shortest_edge": edge}, "crop_size": square}
    if "shortest_edge" in processor.size:  # ConvNeXt's processor resizes and crops by this one number
        return {"size": {"shortest_edge": side}}
    return {"size": square, **({"crop_size": square} if crop else {})}


def _source(section: ModelSection, name: str, content: str | None) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    # A configuration of transformers 5 does not hold its commit, but the path of its file in the cache does.
    cached = (
        None
        if Path(name).is_dir()
        else try_to_load_from_cache(name, "config.json", revision=section.revision)
    )
    commit = Path(cached).parent.name if isinstance(cached, str) else None
    return {"name": section.name, "revision": section.revision, "commit": commit, "content": content}
