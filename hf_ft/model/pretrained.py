"""Call `from_pretrained` of transformers: quietly, in float32, with errors that name the model."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_ft.errors import ModelError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable the log messages and progress bars of transformers; errors in them are raised by hf_ft."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def find_class(name: str) -> Any:
    """Import a class of transformers by its name, or any class as `package.module:Class`.

    Raises:
        ModelError: there is no such class.
    """
    module, _, attribute = name.rpartition(":")
    try:
        return getattr(importlib.import_module(module or "transformers"), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"cannot find the class {name!r} ({error}); expected a class of transformers"
        ) from error


def from_pretrained(cls: Any, name: str, shown: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Load a model with `from_pretrained` in float32, without remote code, in eval mode.

    Args:
        cls: the class of the model.
        name: folder or Hub id.
        shown: name of the model in messages.
        options: further arguments of `from_pretrained`.

    Returns:
        The model and the loading report of transformers.

    Raises:
        ModelError: the model cannot be loaded.
    """
    import torch

    with quiet(), explain_errors(shown):
        model, report = cls.from_pretrained(
            name,
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # the report then lists all of them, with shapes
            output_loading_info=True,
            **options,
        )
    return model.eval(), report


@contextlib.contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Turn an error of a library while loading a model into a ModelError that names the model."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (pickle.UnpicklingError, EOFError) as error:
        # Not in torch's words, which advise to let the file run code.
        inside = re.search(r"unsupported (?:GLOBAL|class) (\S+)", str(error))
        holds = f"it asks for {inside[1]}" if inside else "it is damaged, or no file of weights"
        raise ModelError(
            f"model.name: cannot load {name!r}: a file of weights (.bin, .pt) does not hold tensors alone: "
            f"{holds}. Such a file could run anybody's code, so hf_ft does not load it. Name a model with "
            ".safetensors files, or download the file again"
        ) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        StrictDataclassError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:500].rstrip(".")
        local = Path(name).expanduser().is_dir() or name.startswith("sample:")
        hint = (
            ""
            if local
            else (
                " It is not a local folder; check the spelling on the Hub, access (`hf auth login`) and the "
                "network. Offline, only models in the local Hub cache can be loaded"
            )
        )
        raise ModelError(f"model.name: cannot load {name!r}: {reason}.{hint}") from error


def near_setting(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the nearest known setting, or the list of known settings."""
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has: {', '.join(sorted(known)[:40])}"
