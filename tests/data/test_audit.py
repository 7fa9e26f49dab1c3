import csv
import io
import os
import time

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from PIL import Image
from rich.console import Console

from hf_ft.data.audit import Findings, add_bad_rows, audit, judge_classes, usable_rows, write_bad
from hf_ft.data.sources import read_source
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.inputs.image_files import content_digest, open_image, perceptual_hash
from hf_ft.recipe.schema import DataSection
from hf_ft.storage.row_hash import hash_row
from hf_ft.storage.source_hash import task_source_hash
from hf_ft.task import Inspection, Task


class Pictures(Task):
    """Inspects pictures and counts the inspections."""

    class_role = "label"
    looked = 0

    def inspect(self, row):
        Pictures.looked += 1
        try:
            image = open_image(row["image"], row["id"])
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=content_digest(image), perceptual=perceptual_hash(image))


def png(seed):
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32)).save(file, "PNG")
    return file.getvalue()


def nearly(file):
    """The same picture as a JPEG file."""
    copy = io.BytesIO()
    open_image({"bytes": file, "path": None}, "r").save(copy, "JPEG", quality=95)
    return copy.getvalue()


def table(split, files, labels=None, paths=False):
    features = {"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")}
    images = [{"bytes": None, "path": str(file)} if paths else {"bytes": file, "path": "x"} for file in files]
    labels = labels or ["a", "b"] * (len(files) // 2) + ["a"] * (len(files) % 2)
    rows = Dataset.from_dict({"image": images, "label": labels}, features=Features(features))
    return Table(rows, {"image": "image", "label": "label"}, [f"{split}/{row}" for row in range(len(files))])


def run_audit(examples, tmp_path, on_bad="error", balanced=False, duplicates="error"):
    findings = audit(Pictures(), examples, on_bad, tmp_path / "cache", duplicates)
    classes = {split: rows.column("label") for split, rows in examples.items()}
    judge_classes(findings, classes, balanced=balanced)
    return findings


def shown(findings):
    console = Console(width=200, file=io.StringIO())
    console.print(findings.table())
    return console.file.getvalue()


def test_good_data(tmp_path):
    examples = {"train": table("train", [png(seed) for seed in range(20)])}
    examples["test"] = table("test", [png(seed) for seed in range(50, 54)])
    findings = run_audit(examples, tmp_path)
    findings.raise_for_errors()
    assert (findings.errors, findings.warnings, findings.bad, findings.duplicates) == ([], [], [], [])
    assert findings.counts == {"train": 20, "test": 4} and findings.classes["train"] == {"a": 10, "b": 10}
    text = shown(findings)
    assert "train" in text and "10 a" in text and "No problem found." in text


def test_bad_rows_are_named_and_stop_the_run(tmp_path):
    """ds#6470: a broken file must be found before training and not in its sixth hour."""
    examples = {"train": table("train", [png(0), png(1)[:100], b"", *map(png, range(2, 9))])}
    findings = run_audit(examples, tmp_path)
    assert [entry["id"] for entry in findings.bad] == ["train/1", "train/2"]
    assert not any("train/" in entry["reason"] for entry in findings.bad)
    with pytest.raises(
        DataError, match=r"train: 2 of 10 rows cannot be used \(train/1: (?!row).*Correct or remove them$"
    ):
        findings.raise_for_errors()
    assert "error: train: 2 of 10" in shown(findings)
    write_bad(findings.bad, tmp_path / "bad.csv")
    with open(tmp_path / "bad.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["train/1", "train/2"]


def test_bad_rows_are_left_out_up_to_one_percent(tmp_path):
    files = [png(seed) for seed in range(200)]
    one, four = list(files), list(files)
    one[7] = b"broken"
    four[:4] = [b"broken"] * 4
    findings = run_audit({"train": table("train", one)}, tmp_path, "skip")
    assert findings.errors == [] and "left out" in findings.warnings[0]
    kept = usable_rows({"train": table("train", one)}, findings)["train"]
    assert len(kept) == 199 and "train/7" not in kept.ids
    findings = run_audit({"train": table("train", four)}, tmp_path, "skip")
    assert "at most 1%" in findings.errors[0]


def test_bad_rows_of_audit_and_task_check_count_together(tmp_path):
    """At most 1 % are left out, no matter whether the audit or `Task.check` refuses the rows."""
    files = [png(seed) for seed in range(200)]
    files[7] = files[8] = b"broken"
    examples = {"train": table("train", files)}
    findings = run_audit(examples, tmp_path, "skip")
    assert findings.errors == []
    good = usable_rows(examples, findings)["train"]
    add_bad_rows(findings, "train", good.ids, {0: "too short"}, "skip")
    assert "train/0: too short" in findings.errors[0] and "at most 1%" in findings.errors[0]
    assert len(usable_rows(examples, findings)["train"]) == 197


def test_leakage_between_splits(tmp_path):
    """PlantSeg#11: equal images in train and test; above 1 % of the smaller split it is an error."""
    train = [png(seed) for seed in range(300)]
    test = [png(seed) for seed in range(500, 700)]
    few, many = [*test[:-1], train[3]], [*test[:-3], *train[3:6]]
    findings = run_audit({"train": table("train", train), "test": table("test", few)}, tmp_path)
    assert findings.errors == []
    assert "test: 1 rows (0.50%) are in train too, equal: test/199 = train/3" in findings.warnings
    findings = run_audit({"train": table("train", train), "test": table("test", many)}, tmp_path)
    assert len(findings.errors) == 1 and "data.split.by" in findings.errors[0]
    assert "data.duplicates: drop_from_train" in findings.errors[0]


@pytest.fixture
def leaking():
    """Two splits that share two pictures, one of them with another label; train has a nearly equal one."""
    train = [png(seed) for seed in range(20)]
    test = [*(png(seed) for seed in range(50, 58)), train[3], train[4], nearly(train[6])]
    labels = ["a", "b"] * 5 + ["a"]
    labels[8] = "b"
    return {"train": table("train", train), "test": table("test", test, labels)}


def test_duplicates_are_left_out_of_train_and_never_of_test(leaking, tmp_path):
    findings = run_audit(leaking, tmp_path, duplicates="drop_from_train")
    assert findings.errors == [] and findings.left_out == {
        "train": {"train/3": "test/8", "train/4": "test/9"}
    }
    kept = usable_rows(leaking, findings)
    assert len(kept["test"]) == 11 and len(kept["train"]) == 18
    assert not {"train/3", "train/4"} & set(kept["train"].ids)
    (said,) = findings.decisions
    assert "train: 2 of 20 rows are left out" in said and "train/3 = test/8, train/4 = test/9" in said
    assert "1 of them have another label there: train/4" in said
    # Two pictures that look alike are not the same picture: a person has to look.
    assert [entry.kind for entry in findings.duplicates] == ["nearly equal"]
    assert any("nearly equal: test/10 ~ train/6" in line for line in findings.warnings)


def test_duplicates_are_kept_and_named_where_they_are_reported(leaking, tmp_path):
    findings = run_audit(leaking, tmp_path, duplicates="report")
    assert findings.errors == [] and findings.left_out == {} and findings.decisions == []
    assert findings.seen == {"test": {"test/8": "train/3", "test/9": "train/4"}}
    assert any("They are kept (data.duplicates: report)" in line for line in findings.warnings)
    assert {split: len(rows) for split, rows in usable_rows(leaking, findings).items()} == findings.counts


def test_a_bad_row_is_not_left_out_as_a_duplicate(tmp_path):
    """It is a finding of its own, and stops the run or is skipped."""
    files = [png(seed) for seed in range(200)]
    examples = {"train": table("train", [*files, b"broken"]), "test": table("test", [png(300), b"broken"])}
    findings = run_audit(examples, tmp_path, duplicates="drop_from_train")
    assert findings.left_out == {} and [entry["id"] for entry in findings.bad] == ["train/200", "test/1"]


def test_the_number_of_examples_is_not_the_number_of_duplicates(tmp_path):
    """At most twenty examples are stored for any number of duplicates."""
    files = [png(seed) for seed in range(30)]
    findings = run_audit({"train": table("train", [*files, *files])}, tmp_path)
    line = next(line for line in findings.warnings if "occur again" in line)
    assert "in all" not in line and "train: 30 rows" in line and line.count(" = ") == 3
    assert line.endswith(" and more")


def test_nearly_equal_pictures_are_a_warning(tmp_path):
    findings = run_audit(
        {"train": table("train", [png(0), png(1)]), "test": table("test", [nearly(png(1))])}, tmp_path
    )
    assert findings.errors == []
    assert any("nearly equal: test/0 ~ train/1" in line for line in findings.warnings)


def test_imbalance_and_absent_classes_are_warnings(tmp_path):
    files = [png(seed) for seed in range(24)]
    train = table("train", files[:22], ["common"] * 20 + ["rare", "odd"])
    findings = run_audit(
        {"train": train, "validation": table("validation", files[22:], ["common", "rare"])}, tmp_path
    )
    assert findings.errors == []
    assert any("20:1" in line and "rare" in line and "class_weights" in line for line in findings.warnings)
    assert any(line.startswith("validation: no rows of odd") for line in findings.warnings)


def test_no_imbalance_warning_if_the_recipe_balances_classes(tmp_path):
    examples = {"train": table("train", [png(seed) for seed in range(12)], ["a"] * 11 + ["b"])}
    assert any("class_weights: balanced" in line for line in run_audit(examples, tmp_path).warnings)
    assert run_audit(examples, tmp_path, balanced=True).warnings == []


def test_labels_that_join_other_labels_are_a_warning(tmp_path):
    files = [png(seed) for seed in range(6)]
    found = run_audit(
        {"train": table("train", files, ["a", "b", "a;b", "b; a", "x;y", "a"])}, tmp_path
    ).warnings
    assert found == [
        "train: 2 classes are others joined by ';': a;b, b; a. Where a row has several labels, write "
        'data.label_separator: ";"'
    ]


def test_a_second_audit_decodes_nothing(tmp_path):
    def examples(label="b"):
        return {"train": table("train", [png(0), png(1), b"broken"], ["a", label, "a"])}

    Pictures.looked = 0
    first, second = run_audit(examples(), tmp_path), run_audit(examples(), tmp_path)
    assert Pictures.looked == 3 and second.cached and not first.cached
    assert (first.errors, first.fingerprints) == (second.errors, second.fingerprints)
    assert not run_audit(examples("c"), tmp_path).cached


def test_a_changed_file_is_inspected_again(tmp_path):
    """ds#3297: a cached result of data or code that has changed was used."""
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    first = run_audit({"train": table("train", [path], ["a"], paths=True)}, tmp_path)
    path.write_bytes(png(1) + b" ")
    second = run_audit({"train": table("train", [path], ["a"], paths=True)}, tmp_path)
    assert not second.cached and first.fingerprints != second.fingerprints


def test_a_second_audit_hashes_nothing(tmp_path, monkeypatch):
    def examples():
        return {"train": table("train", [png(0), png(1), b"broken"])}

    first = run_audit(examples(), tmp_path)
    monkeypatch.setattr("hf_ft.data.audit.hash_row", lambda row, files: pytest.fail("a known row is hashed"))
    second = run_audit(examples(), tmp_path)
    assert second.cached and (first.errors, first.classes) == (second.errors, second.classes)
    assert first.fingerprints == second.fingerprints
    with pytest.raises(pytest.fail.Exception):
        run_audit({"train": table("train", [png(0), png(2), b"broken"])}, tmp_path)
    for rows in examples().values():
        rows.ids[0] = "another"
        with pytest.raises(pytest.fail.Exception):
            run_audit({"train": rows}, tmp_path)


def test_a_file_that_was_missing_is_inspected_once_it_exists(tmp_path):
    path = tmp_path / "late.png"
    examples = {"train": table("train", [path], ["a"], paths=True)}
    assert run_audit(examples, tmp_path).errors
    path.write_bytes(png(0))
    assert run_audit(examples, tmp_path).errors == []


def test_rows_are_inspected_again_when_the_code_changes(tmp_path):
    """ds#3297: the source of `inspect` is part of the cache key."""
    run_audit({"train": table("train", [png(0)], ["a"])}, tmp_path)

    class Stricter(Pictures):
        pass

    assert not audit(
        Stricter(), {"train": table("train", [png(0)], ["a"])}, "error", tmp_path / "cache"
    ).cached


def test_nothing_is_stored_without_a_cache_folder(tmp_path):
    examples = {"train": table("train", [png(0), png(1)]), "test": table("test", [png(2)])}
    first, again = (audit(Pictures(), examples, "error", None) for _ in range(2))
    assert not first.cached and not again.cached and first.fingerprints == again.fingerprints
    assert not list(tmp_path.iterdir())


def test_different_rows_have_different_hashes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    rows = [
        {"x": [1.0, 2.0]},
        {"x": [1.0, 2.5]},
        {"x": np.array([1.0, 2.0])},
        {"x": np.array([1.0, 2.0], dtype=np.float32)},
        {"x": np.arange(5000)},
        {"x": np.append(np.arange(2000), np.arange(2001, 5001))},
        {"x": ["a", "b"]},
        {"x": ["ab"]},
        {"x": b"ab"},
        {"x": {"bytes": None, "path": "elsewhere.png"}},
        {"x": {"bytes": None, "path": str(path)}},
        {"x": None},
        {"x": "no"},
        {"x": "\ud800"},
    ]
    hashes = [hash_row(row) for row in rows]
    assert len(set(hashes)) == len(rows)
    assert hash_row({"x": ["".join(["a", ""]), "b"]}) == hashes[6]
    path.write_bytes(b"22")
    assert hash_row(rows[10]) != hashes[10]


def test_a_changed_file_of_equal_size_and_mtime_has_another_hash(tmp_path):
    """rsync --times and cp -p can replace a picture by another one of the same name, size and mtime."""
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    state, before = path.stat(), hash_row({"x": str(path)})
    time.sleep(0.05)  # the clock of a file system may be coarse
    path.write_bytes(b"2")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns and hash_row({"x": str(path)}) != before


@pytest.mark.real
def test_real_pictures(tmp_path, real_data):
    """The README of this data set names one nearly equal pair between train and test."""
    found = read_source(DataSection(source=str(real_data / "cifar10")))
    columns = {"image": "image", "label": "label"}
    examples = {
        split: Table(rows, columns, [f"{split}/{row}" for row in range(len(rows))])
        for split, rows in found.items()
    }
    findings = run_audit(examples, tmp_path)
    findings.raise_for_errors()
    assert [(entry.kind, entry.splits, entry.rows) for entry in findings.duplicates] == [
        ("nearly equal", ("test", "train"), 1)
    ]
    assert run_audit(examples, tmp_path).cached


def test_the_source_hash_of_a_task_includes_the_user_modules_it_imports(tmp_path, monkeypatch):
    """If a helper of the task is edited, cached findings and activations must not be used."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "audit_helper.py").write_text("def clean(text):\n    return text\n")
    (tmp_path / "audit_task.py").write_text(
        "from audit_helper import clean\nfrom toy import ToyTask\n\n\nclass Mine(ToyTask):\n    pass\n"
    )
    from audit_task import Mine

    before = task_source_hash(Mine())
    (tmp_path / "audit_helper.py").write_text("def clean(text):\n    return text.lower()\n")
    assert task_source_hash(Mine()) != before


@pytest.mark.parametrize(("bad", "advised"), [(1, True), (3, False), (200, False)])
def test_skipping_is_advised_only_where_it_would_be_allowed(bad, advised):
    """Where every row is bad, the task is wrong and not the rows; skipping them would be refused."""
    findings = Findings(counts={"train": 200})
    ids = [str(number) for number in range(200)]
    add_bad_rows(findings, "train", ids, dict.fromkeys(range(bad), "no number"), "error")
    (error,) = findings.errors
    assert ("data.on_bad: skip" in error) == advised
    assert ("task" in error) == (bad == 200)
