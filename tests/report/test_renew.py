"""The report of a finished run is written again: the same page, sealed again."""

import json
import re

import pytest
import tiny

from hf_ft import finetune, verify
from hf_ft.errors import VerifyError
from hf_ft.report.renew import renew_report

COLOURS = ["red", "green", "blue"]


def test_the_report_is_the_same_and_the_run_is_sealed_again(tmp_path):
    rows = [{"text": f"{COLOURS[n % 3]} {n}", "label": COLOURS[n % 3]} for n in range(45)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = finetune(
        {
            "task": "text-classification",
            "output_dir": str(tmp_path / "run"),
            "data": {"source": str(tmp_path / "rows.json"), "split": {"validation": 9, "test": 9}},
            "model": {"name": tiny.saved(tiny.bert(), tmp_path / "bert", tiny.tokenizer())},
            "freeze": "head",
            "train": {
                "num_train_epochs": 2,
                "learning_rate": 1e-2,
                "global_batch_size": 9,
                "disable_tqdm": True,
            },
        },
        verbose=False,
    ).folder
    page = run / "report.html"
    before = page.read_text()
    page.write_text("an old report")
    assert not verify(run).passed
    assert renew_report(run) == page

    def words(text):
        """The words of the page, without ids and times, which differ from drawing to drawing."""
        found = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
        return re.findall(r"[A-Za-z]+|[0-9.]+ %", re.sub(r"<[^>]+>|[0-9.]+ (s|min)\b", " ", found))

    assert words(page.read_text()) == words(before)
    assert verify(run).passed
    (run / "results.json").write_text((run / "results.json").read_text().replace("accuracy", "Accuracy", 1))
    with pytest.raises(VerifyError, match=r"results: results\.json is not what"):
        renew_report(run)
    with pytest.raises(VerifyError, match="the run has not ended"):
        renew_report(tmp_path)
