"""Check once whether a name is on the Hub, because a loader would retry for half a minute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from hf_ft.text_utils import nearest

# Timeout of a request to the Hub, in seconds.
PATIENCE = 10
# Least similarity of a name that is suggested. Among hundreds of model types, some name always has 0.6.
ALIKE = 0.78


def why_not_on_hub(
    name: str, kind: Literal["model", "data set"], revision: str | None = None, file: str = "config.json"
) -> str | None:
    """Return why a model or data set cannot be read from the Hub, or None if a loader should try.

    Args:
        name: name in the recipe; no local file or folder has this name.
        kind: whether to look for a model or a data set.
        revision: branch, tag or commit.
        file: a file of the model; if the local cache has it, no request is sent.
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
        return "it is no name on the Hub: expected namespace/name of letters, digits, `-`, `_` and `.`"
    if _in_cache(name, kind, revision, file):
        return None
    if constants.HF_HUB_OFFLINE:
        return "it is not in the local cache; no request was sent to the Hub, because HF_HUB_OFFLINE is set"
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
        return None  # The Hub answers with a server error, for which a loader retries.
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
    """Return `. Did you mean a or b?` with the nearest name of each kind; empty if none is near.

    Args:
        name: the name that was found.
        known: text of a suggestion with `{}` for the name -> the names of this kind.
    """
    near = {text: nearest(name, names, ALIKE) for text, names in known.items()}
    found = [text.format(one) for text, one in near.items() if one is not None]
    return f". Did you mean {' or '.join(found)}?" if found else ""
