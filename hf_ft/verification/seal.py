"""The seal of a finished run: the hashes of all its files, written last."""

from __future__ import annotations

import re
from pathlib import Path

from hf_ft.errors import VerifyError
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.file_hash import checksums
from hf_ft.text_utils import listing
from hf_ft.verification.items import RECORD, judged_files, read_record

SEAL = "seal.json"
# Files that are left out: what came before the result, the times, and the card, which is written again for
# each repository.
UNSEALED = re.compile(r"\.|checkpoints/|card/|(log\.jsonl|error\.log|timing\.json|profile\.json|seal\.json)$")


def write_seal(folder: Path) -> None:
    """Write the hashes of all files of a finished run, except those that say how it was computed."""
    write_json(folder / SEAL, {"files": checksums(folder, without=UNSEALED)}, indent=2)


def check_unchanged(folder: Path) -> str:
    """Compare the files of a finished run with what was judged at its end (verify.json) and sealed.

    Raises:
        VerifyError: names the files that were changed, added or removed since; or a record is missing.
    """
    record, seal = read_record(folder), read_json(folder / SEAL, dict)
    if record is None or seal is None or not isinstance(seal.get("files"), dict):
        missing = RECORD if record is None else SEAL
        raise VerifyError(f"{missing} is missing or damaged: the run did not finish, or a file was removed")
    pairs = [(record.files, judged_files(folder)), (seal["files"], checksums(folder, without=UNSEALED))]
    changed = {
        f"{name} ({'added' if name not in before else 'changed' if name in now else 'removed'})"
        for before, now in pairs
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name)
    }
    if changed:
        raise VerifyError(f"not as when the run ended: {listing(sorted(changed), 5)}")
    return f"{len(pairs[1][1])} files are those of {RECORD} and {SEAL}"
