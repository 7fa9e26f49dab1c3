"""Find the secrets in the environment, so that no file of a run holds one."""

from __future__ import annotations

import os
import re

SECRET_VARIABLES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
# A shorter value is a switch (`TOKENIZERS_PARALLELISM=false`) rather than a secret.
_SHORTEST = 8
# Words (`password`, `text-classification`): they stand in every vocabulary, and protect nothing.
_WORDS = re.compile(r"[a-z]{1,12}([-_. ][a-z]{1,12}){0,2}")


def environment_secrets() -> dict[str, str]:
    """Return name -> value of the environment variables that hold secrets, by their names."""
    return {
        name: value
        for name, value in os.environ.items()
        if SECRET_VARIABLES.search(name) and len(value) >= _SHORTEST and not _WORDS.fullmatch(value)
    }


def without_secrets(text: str) -> str:
    """Replace the value of each secret of the environment in a text by the name of its variable."""
    for name, value in environment_secrets().items():
        text = text.replace(value, f"${name}")
    return text
