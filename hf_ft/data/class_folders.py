"""Class folders: one folder per class, with or without a folder per split above them.

The folders are scanned here and not by `datasets`, which turns split folders into labels (ds#7880) and takes
`.ipynb_checkpoints` for a class.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.errors import DataError
from hf_ft.text_utils import listing, media_kind, natural_key, split_of

if TYPE_CHECKING:
    from datasets import Dataset

# Files and folders that file browsers and archivers create; hidden ones (`.DS_Store`) start with a dot.
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
# Name of the column that holds the path of each file below the folder; `read_table` takes the ids from it.
ROW_ID = "row_id"


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder in natural order, without hidden entries and system files."""
    entries = [entry for entry in folder.iterdir() if not _ignored(entry.name)]
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_FILES


def read_class_folders(root: Path) -> dict[str, Dataset]:
    """Read `root/<class>/<file>` or `root/<split>/<class>/<file>`.

    Args:
        root: the folder.

    Returns:
        Split name -> rows with the columns `image` (or `video`, `audio`: {"bytes": None, "path": ...}),
        `label` (name of the class) and `row_id` (path below root), in natural order.

    Raises:
        DataError: the class or the split of a file is not clear from the folders.
    """
    folders = [entry for entry in visible(root) if entry.is_dir()]
    named = {folder: split_of(folder.name) for folder in folders}
    splits = [folder for folder in folders if named[folder]]
    if splits and len(splits) < len(folders):
        others = [folder.name for folder in folders if not named[folder]]
        raise DataError(
            f"data.source: {root} holds folders named like splits ({listing(f.name for f in splits)}) "
            f"beside others ({listing(others)}). A class may not be named like a split, and class folders "
            "must not lie beside split folders: rename the class, or move the class folders into train/."
        )
    loose = [entry.name for entry in visible(root) if entry.is_file() and media_kind(entry.name)]
    if loose:
        raise DataError(
            f"data.source: {root} holds files outside any class folder ({listing(loose, 3)}); expected "
            "<class>/<file> or <split>/<class>/<file>."
        )
    if not splits:
        return {"train": _dataset(root, _scan(root))}
    found: dict[str, list[tuple[str, Path]]] = {}
    for folder in splits:
        split = str(named[folder])
        if split in found:
            raise DataError(f"data.source: {root} holds two folders for the split {split}; keep one of them.")
        found[split] = _scan(folder)
    _check_same_classes(root, found)
    return {split: _dataset(root, files) for split, files in found.items()}


def _scan(folder: Path) -> list[tuple[str, Path]]:
    """List (class, file) for all files in the class folders of one folder."""
    loose = [entry.name for entry in visible(folder) if entry.is_file() and media_kind(entry.name)]
    if loose:
        raise DataError(
            f"data.source: {folder} holds files without a class ({listing(loose, 3)}); put each into a "
            "folder named after its class."
        )
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    if not classes:
        raise DataError(f"data.source: {folder} holds no class folders.")
    for entry in classes:
        if split_of(entry.name):
            raise DataError(
                f"data.source: the class folder {entry} is named like a split; rename the class, or move "
                "the split folder to the top."
            )
    files: list[tuple[str, Path]] = []
    for entry in classes:
        inside = visible(entry)
        nested = [path.name for path in inside if path.is_dir()]
        if nested:
            raise DataError(
                f"data.source: the class folder {entry} holds folders ({listing(nested, 3)}); files must "
                "lie directly in their class folder."
            )
        if not inside:
            raise DataError(f"data.source: the class folder {entry} is empty; fill it or remove it.")
        files += [(entry.name, path) for path in inside]
    return files


def _check_same_classes(root: Path, found: dict[str, list[tuple[str, Path]]]) -> None:
    classes = {split: {name for name, _ in files} for split, files in found.items()}
    every: set[str] = set().union(*classes.values())
    lines = [
        f"{split} lacks {listing(sorted(every - names))}" for split, names in classes.items() if every - names
    ]
    if lines:
        raise DataError(
            f"data.source: the splits of {root} do not hold the same classes: {'; '.join(lines)}. Correct "
            "the folder names, or leave out the split so that it is drawn from train."
        )


def _dataset(root: Path, files: list[tuple[str, Path]]) -> Dataset:
    from datasets import Dataset, Features, Value

    kinds: dict[str | None, list[Path]] = {}
    for _, path in files:
        kinds.setdefault(media_kind(path.name), []).append(path)
    if None in kinds:
        raise DataError(
            f"data.source: {len(kinds[None])} files are neither images nor videos nor audio, "
            f"e.g. {listing(kinds[None], 3)}; move them out of the class folders."
        )
    if len(kinds) > 1:
        examples = ", ".join(f"{kind}: {paths[0]}" for kind, paths in kinds.items())
        raise DataError(f"data.source: {root} mixes kinds of files ({examples}); keep one kind.")
    kind = str(next(iter(kinds)))
    return Dataset.from_dict(
        {
            kind: [{"bytes": None, "path": str(path)} for _, path in files],
            "label": [name for name, _ in files],
            ROW_ID: [path.relative_to(root).as_posix() for _, path in files],
        },
        features=Features(
            {
                kind: {"bytes": Value("binary"), "path": Value("string")},
                "label": Value("string"),
                ROW_ID: Value("string"),
            }
        ),
    )
