"""Find files of a run that must not be kept or published: pickles, archives, code, and files with secrets."""

from __future__ import annotations

import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from hf_ft.errors import RecipeError, VerifyError
from hf_ft.secret_values import environment_secrets
from hf_ft.storage.atomic import read_json

PICKLE_NAMES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
SECRETS = {
    "Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36,}",
    "AWS access key": rb"\bAKIA[0-9A-Z]{16}\b",
    "OpenAI-style key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# Files that a program would run when it loads the folder.
CODE_NAMES = {".py", ".pyc", ".so", ".dll", ".dylib", ".sh"}
# The first bytes of compressed files, which nothing in a run folder is: zip and tar have tests of their own.
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
}


def check_contents(run_folder: Path) -> str:
    """(f) Look for pickles, code and secrets in everything that the run keeps."""
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    check_files(files, run_folder)
    return f"{len(files)} files: no pickle, no code, no secret"


def check_files(files: Iterable[Path], run_folder: Path) -> None:
    """Look for pickles, archives, code and secrets in these files of a run.

    Raises:
        VerifyError: names the first file that holds one.
    """
    secrets = _patterns()
    for path in files:
        name = path.relative_to(run_folder)
        if path.suffix.lower() in PICKLE_NAMES or _is_pickle(path):
            raise VerifyError(f"{name} is a pickle; loading it could run anybody's code")
        if path.suffix.lower() in CODE_NAMES or _names_code(path):
            raise VerifyError(f"{name} is or names code, which loading the model could run")
        kind = _archive(path)
        if kind is not None:
            raise VerifyError(f"{name} is an archive ({kind}), which could hold anything")
        # The tensors themselves are numbers; the header of the file can hold text.
        content = _header(path) if path.suffix == ".safetensors" else path.read_bytes()
        for what, pattern in secrets.items():
            if re.search(pattern, content):
                raise VerifyError(f"{name} holds a secret: {what}")


def refuse_secrets(recipe: str, command: Iterable[str]) -> None:
    """Refuse a recipe or a command that holds a secret, before it is written into a run folder.

    Args:
        recipe: the recipe as YAML.
        command: the arguments of the program.

    Raises:
        RecipeError: names the secret, without its value.
    """
    for where, text in (("the recipe", recipe), ("the command line", "\0".join(command))):
        for what, pattern in _patterns().items():
            if re.search(pattern, text.encode("utf-8", "replace")):
                raise RecipeError(
                    f"{where} holds a secret ({what}), which would stand in the run folder; remove it. "
                    "hf_ft needs none: the Hub's token comes from `hf auth login` or HF_TOKEN"
                )


def _patterns() -> dict[str, bytes]:
    """Return what a secret is called -> a pattern that finds it."""
    values = environment_secrets()
    return SECRETS | {
        f"the value of ${name}": re.escape(value.encode("utf-8", "surrogateescape"))
        for name, value in values.items()
    }


def _is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle of any protocol; protocols 0 and 1 have no first bytes of their own."""
    with path.open("rb") as file:
        start = file.read(2)
        if start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return True
        file.seek(0)
        try:
            steps = sum(1 for _ in pickletools.genops(file))
        except Exception:  # the first byte that is no instruction ends it, in whatever way
            return False
        return steps > 1 and not file.read().strip()


def _names_code(path: Path) -> bool:
    """Tell whether a JSON file names Python code beside it (`auto_map`), as models with own code do."""
    return path.suffix == ".json" and "auto_map" in (read_json(path, dict) or {})


def _archive(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            return kind
    if zipfile.is_zipfile(path):
        return "zip"
    return "tar" if tarfile.is_tarfile(path) else None


def _header(path: Path) -> bytes:
    """Read the header of a safetensors file: names, shapes and metadata."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(size)
