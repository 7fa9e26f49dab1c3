"""Is a name on the Hub? Asked once, before a loader that would repeat the question for half a minute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from hf_ft.text_utils import nearest

# Seconds that the Hub has to answer.
PATIENCE = 10
# How alike a name must be to be asked about: among hundreds of kinds of models, half of one is always near.
ALIKE = 0.78


def why_not_on_hub(
    name: str, kind: Literal["model", "data set"], revision: str | None = None, file: str = "config.json"
) -> str | None:
    """Say why a model or data set cannot be read from the Hub; None where a loader may try.

    Args:
        name: as the recipe writes it; nothing local has this name.
        kind: what to look for.
        revision: branch, tag or commit.
        file: of a model; the Hub is not asked where the local cache has it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return "no name on the Hub is written like this (namespace/name of letters, digits, `-`, `_`, `.`)"
    if _in_cache(name, kind, revision, file):
        return None
    if constants.HF_HUB_OFFLINE:
        return "it is not in the local cache; the Hub is not asked, because HF_HUB_OFFLINE is set"
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        ask(name, revision=revision, timeout=PATIENCE)
    except GatedRepoError:
        return f"it is gated: ask for access at https://huggingface.co/{name}, then run `hf auth login`"
    except RevisionNotFoundError:
        return f"on the Hub it has no revision {revision!r}"
    except RepositoryNotFoundError:
        return f"the Hub has no {kind} of that name that this login may see (`hf auth login`)"
    except HfHubHTTPError:
        return None  # The Hub is there and in trouble: this is what a loader's retries are for.
    except HTTPError as error:
        return f"it is not in the local cache, and the Hub cannot be reached ({error})"
    return None


def _in_cache(name: str, kind: str, revision: str | None, file: str) -> bool:
    if kind == "model":
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(name, file, revision=revision), str)
    from datasets import config

    return (Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def did_you_mean(name: str, known: Mapping[str, Iterable[str]]) -> str:
    """Ask whether a near name was meant, one of each kind; empty where none is near.

    Args:
        name: what was found.
        known: how to write and explain what is meant, with `{}` for the name -> the names.
    """
    near = {text: nearest(name, names, ALIKE) for text, names in known.items()}
    found = [text.format(one) for text, one in near.items() if one is not None]
    return f". Did you mean {' or '.join(found)}?" if found else ""
