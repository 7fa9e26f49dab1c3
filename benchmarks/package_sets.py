"""Build three data sets from Debian and npm packages, for `benchmarks.defaults`.

    python -m benchmarks.package_sets FOLDER

debian     a package's short description -> its section: 10 sections, 257 rows each to train, 86 to test
fortunes   a text of the package `fortunes` -> its file: 12 files, up to 200 rows each to train, 60 to test
emoji      a 64-pixel picture with transparency -> group; drawn by Google to train, by Apple to test

Needs `apt-cache`, `apt-get`, `dpkg-deb` and `npm`.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECTIONS = ("libs", "python", "doc", "perl", "games", "sound", "fonts", "net", "science", "ruby")
FORTUNES = ("art", "computers", "drugs", "education", "food", "humorists")
FORTUNES += ("law", "men-women", "politics", "science", "sports", "work")
EMOJI = "16.0.0"
SEED = 17

Row = Mapping[str, Any]


def debian(folder: Path) -> None:
    """Write one package of each source package, as `apt-cache dumpavail` describes it."""
    text = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    seen, rows = set(), []
    for paragraph in text.split("\n\n"):
        found = dict(
            re.findall(r"^(Package|Section|Source|Description(?:-en)?): ?(.*)$", paragraph, re.MULTILINE)
        )
        description = found.get("Description", found.get("Description-en"))
        source = found.get("Source", found.get("Package", "")).split(" ")[0]
        if found.get("Section") in SECTIONS and description and source not in seen:
            seen.add(source)
            rows.append({"id": found["Package"], "text": description, "label": found["Section"]})
    _write(folder, rows, train=257, test=86)


def fortunes(folder: Path) -> None:
    """Write the texts of the package `fortunes`, labelled with the names of their files."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "fortunes"], cwd=scratch, check=True, capture_output=True)
        (package,) = Path(scratch).glob("fortunes_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
        rows = [
            {"id": f"{name}-{number}", "text": text.strip(), "label": name}
            for name in FORTUNES
            for number, text in enumerate(
                (Path(scratch) / "usr/share/games/fortunes" / name).read_text().split("\n%\n")
            )
            if text.strip()
        ]
    _write(folder, rows, train=200, test=60)


def emoji(folder: Path) -> None:
    """Write pictures of the same characters by two companies."""
    from datasets import Dataset, Features, Image, Value

    columns = Features({"id": Value("string"), "image": Image(), "label": Value("string")})
    for vendor, split in (("google", "train"), ("apple", "test")):
        with tempfile.TemporaryDirectory() as scratch:
            name = f"emoji-datasource-{vendor}"
            subprocess.run(["npm", "pack", f"{name}@{EMOJI}"], cwd=scratch, check=True, capture_output=True)
            archive = Path(scratch) / f"{name}-{EMOJI}.tgz"
            wanted = ["package/emoji.json", f"package/img/{vendor}/64"]
            subprocess.run(["tar", "-xzf", archive, *wanted], cwd=scratch, check=True)
            package = Path(scratch) / "package"
            rows = [
                {
                    "id": f"{vendor}-{one['unified']}",
                    "image": {"bytes": file.read_bytes(), "path": None},
                    "label": one["category"],
                }
                for one in json.loads((package / "emoji.json").read_text())
                if one["category"] != "Component"
                and (file := package / "img" / vendor / "64" / one["image"]).is_file()
            ]
        Dataset.from_list(rows, features=columns).to_parquet(folder / f"{split}.parquet")


def _write(folder: Path, rows: Iterable[Row], *, train: int, test: int) -> None:
    """Draw this many rows of each class, and write train.parquet and test.parquet."""
    from datasets import Dataset

    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        by_class[row["label"]].append(row)
    drawn = random.Random(SEED)
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for name in sorted(by_class):
        own = by_class[name]
        drawn.shuffle(own)
        parts["test"] += own[:test]
        parts["train"] += own[test : test + train]
    for split, part in parts.items():
        Dataset.from_list([dict(row) for row in part]).to_parquet(folder / f"{split}.parquet")


SETS = {"debian": debian, "fortunes": fortunes, "emoji": emoji}


def make(name: str, root: Path) -> Path:
    """Build a data set below a folder, unless it exists, and return its folder."""
    folder = root / name
    if not (folder / "test.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        SETS[name](folder)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Build all data sets below the folder in the arguments."""
    for name in SETS:
        print(make(name, Path(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
