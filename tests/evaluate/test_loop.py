"""The evaluation loop: every row once, a loss that does not depend on the batch, little memory."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import masks
import numpy as np
import points
import pytest
import torch
from datasets import Dataset
from processes import Processes

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.evaluate.bootstrap import bootstrap_interval
from hf_ft.evaluate.loop import References, evaluate_rows, measure

ROOT = Path(__file__).parents[2]


def encoded(task, rows):
    """Return encoded rows of a split named test, with the ids r0, r1, ..."""
    columns = {name: name for name in rows[0]}
    table = Table(Dataset.from_list(rows), columns, [f"r{index}" for index in range(len(rows))])
    task.fit(table)
    return EncodedRows(task, table, split="test", seed=0, train=False)


@pytest.fixture
def evaluated():
    rows = encoded(task := points.Points(), points.rows(23))
    torch.manual_seed(0)
    model = points.PointModel(points.PointConfig(num_labels=2))
    return lambda **options: evaluate_rows(task, model, rows, **options), model


@pytest.fixture(scope="module")
def segmented():
    """Evaluate pictures with masks: by default 40, 8 at a time."""
    task, model = masks.Masks(), masks.MaskModel(masks.MaskConfig())
    # The model compares the mean of nine pixels with a threshold, which is mostly right.
    for parameter, value in zip(model.parameters(), (1 / 9, 0.0, 0.5, -0.4), strict=True):
        parameter.data.fill_(value)

    def run(count=40, batch_size=8):
        return evaluate_rows(task, model, encoded(task, masks.rows(count)), batch_size=batch_size)

    return task, run


@pytest.mark.parametrize("batch_size", [1, 3, 8, 23, 64, None])
def test_loss_and_metrics_do_not_depend_on_the_batch(evaluated, batch_size):
    """tf#39241: the Trainer's eval_loss is a mean of batch means; 23 rows leave a partial batch."""
    run, _ = evaluated
    whole, parts = run(batch_size=23), run(batch_size=batch_size)
    assert parts.ids == [f"r{i}" for i in range(23)]
    assert parts.losses == pytest.approx(whole.losses, abs=1e-6)
    assert parts.metrics["loss"] == pytest.approx(sum(whole.losses) / 23, abs=1e-6)
    assert parts.metrics["accuracy"] == whole.metrics["accuracy"]


def test_mode_and_random_state_are_restored(evaluated):
    run, model = evaluated
    model.train()
    state = torch.get_rng_state()
    first, again = run(batch_size=5), run(batch_size=5)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert first.losses == again.losses  # dropout was off


def test_a_lost_row_is_detected(evaluated, monkeypatch):
    """tf#25939: the metric missed images."""
    from hf_ft.data import samplers as sampler

    honest = sampler.EvalBatchSampler.__iter__
    monkeypatch.setattr(sampler.EvalBatchSampler, "__iter__", lambda self: iter(list(honest(self))[:-1]))
    with pytest.raises(DataError, match="rows not counted exactly once"):
        evaluated[0](batch_size=4)


def test_a_repeated_row_is_detected(evaluated, monkeypatch):
    """accelerate#226: rows were repeated to fill the last batch."""
    from hf_ft.data import samplers as sampler

    honest = sampler.EvalBatchSampler.__iter__
    monkeypatch.setattr(
        sampler.EvalBatchSampler, "__iter__", lambda self: iter([*honest(self), [(0, 0, True)]])
    )
    with pytest.raises(DataError, match="r0 x2"):
        evaluated[0](batch_size=4)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["points", "lengths", "masks"])
def test_any_number_of_processes_gives_the_same_evaluation(kind, processes, monkeypatch):
    """23 rows in batches of 4, so that the last rank has fewer: every number is equal to the last bit."""
    task = masks.Masks() if kind == "masks" else points.Points()
    rows = encoded(task, masks.rows(23) if kind == "masks" else points.rows(23))
    if kind == "lengths":
        rows.lengths = np.random.default_rng(0).integers(1, 9, 23).tolist()
    torch.manual_seed(0)
    model = (
        masks.MaskModel(masks.MaskConfig())
        if kind == "masks"
        else points.PointModel(points.PointConfig(num_labels=2))
    )
    # The ranks are threads that share the model, so none may set it to training mode while others run.
    model.eval()
    alone = evaluate_rows(task, model, rows, batch_size=4)
    assert alone.ids == [f"r{index}" for index in range(23)]
    ranks = Processes(processes, monkeypatch)
    for found in ranks.run(lambda rank: evaluate_rows(task, model, rows, batch_size=4)):
        assert found.metrics == alone.metrics and found.losses == alone.losses and found.ids == alone.ids
        assert repr(found.results) == repr(alone.results)


EVALUATE = """
import json, sys
import torch
from test_loop import figures

from hf_ft.train.distributed import start_processes

torch.set_num_threads(1)
processes = start_processes()
found = figures()
if processes.is_main_process:
    json.dump([processes.num_processes, found], open(sys.argv[1], "w"))
"""


def figures():
    """Evaluate points, and pictures with masks; print every float in full."""
    found = {}
    for task, rows, model in (
        (points.Points(), points.rows(53), points.PointModel(points.PointConfig(num_labels=2))),
        (masks.Masks(), masks.rows(21), masks.MaskModel(masks.MaskConfig())),
    ):
        for number, parameter in enumerate(model.parameters()):
            values = np.random.default_rng(number).normal(0, 0.5, parameter.shape)
            parameter.data = torch.from_numpy(values).float()
        done = evaluate_rows(task, model, encoded(task, rows), batch_size=4)
        numbers = {name: value.hex() for name, value in done.metrics.items() if isinstance(value, float)}
        found[task.name] = [numbers, [loss.hex() for loss in done.losses], done.ids]
    return found


@pytest.mark.slow
@pytest.mark.multi_process
def test_two_real_processes_give_the_same_evaluation(tmp_path):
    """With accelerate's own gathering over gloo."""
    (tmp_path / "evaluate_it.py").write_text(EVALUATE)
    folders = [tmp_path, ROOT, ROOT / "tests", ROOT / "tests" / "evaluate"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
    launch = ["accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs/cpu_2proc.yaml")]
    found = []
    for command in (["evaluate_it"], [*launch, "-m", "evaluate_it"]):
        file = tmp_path / "found.json"
        command = [sys.executable, "-m", *command, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(file.read_text()))
    assert [processes for processes, _ in found] == [1, 2]
    assert found[0][1] == found[1][1]
    assert len(found[0][1]["points"][0]) > 5 and len(found[0][1]["masks"][2]) == 21


def test_a_split_without_a_loss_has_metrics_and_no_losses(evaluated, monkeypatch):
    """Rows of identities that are not in training have no targets for a loss."""
    run, _ = evaluated
    asked = []
    monkeypatch.setattr(points.Points, "has_loss", lambda task, split: asked.append(split))
    monkeypatch.setattr(points.Points, "loss", None)
    found = run(batch_size=5)
    assert found.losses is None and "loss" not in found.metrics and 0 <= found.metrics["accuracy"] <= 1
    assert set(asked) == {"test"}


def test_only_the_masks_of_a_batch_are_in_memory(segmented, monkeypatch):
    _, run = segmented
    alive = []
    honest = masks.Masks.summarize

    def summarize(self, results, references):
        alive.append(sum(mask() is not None for mask in masks.Masks.read))
        return honest(self, results, references)

    monkeypatch.setattr(masks.Masks, "summarize", summarize)
    masks.Masks.read.clear()
    found = run(40)
    assert len(masks.Masks.read) == 40 and len(alive) == 5
    # Those of the present batch, and at most those of the one before, which its caller is about to free.
    assert max(alive) <= 16
    assert not any(mask() is not None for mask in masks.Masks.read)
    assert [list(result) for result in found.results] == [["counts"]] * 40


def test_memory_does_not_grow_with_the_rows(segmented):
    """A mask and its prediction take 8 kB per row; three counts of each row are stored."""
    _, run = segmented
    run(16)

    def peak(count):
        tracemalloc.start()
        run(count)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(32), peak(288)
    assert many - few < 256 * 2048


def test_masks_have_an_interval_and_tables_of_their_own(segmented):
    task, run = segmented
    found = run(40)
    metrics = measure(task, found.results, found.references)
    assert metrics.value("iou") == found.metrics["iou"]
    counts = np.array([result["counts"] for result in found.results])
    rows = np.random.default_rng(0).integers(40, size=40)
    hits, false, missed = counts[rows].sum(axis=0)
    assert metrics.value("iou", rows) == hits / (hits + false + missed)
    low, high = bootstrap_interval(metrics, "iou", 40, resamples=200, confidence=0.9, seed=0)
    assert 0.5 < low < found.metrics["iou"] < high < 1
    (table,) = found.tables
    assert (table.name, table.title) == ("pixels", "by kind of pixel")
    assert [row["kind"] for row in table.rows] == ["found", "missed", "false alarm"]
    assert sum(row["pixels"] for row in table.rows[:2]) == sum(
        masks.disc(number).sum() for number in range(40)
    )


def test_references_are_read_on_access(segmented):
    _, run = segmented
    references = run(40).references
    assert isinstance(references, References) and len(references) == 40
    masks.Masks.read.clear()
    assert np.array_equal(references[-1], masks.disc(39)) and len(masks.Masks.read) == 1
    assert [mask.sum() for mask in references[3:9:2]] == [masks.disc(number).sum() for number in (3, 5, 7)]
    assert np.array_equal(np.asarray(references), [masks.disc(number) for number in range(40)])
    with pytest.raises(IndexError):
        references[40]
