"""A run whose every string is hostile, with secrets in the environment: nothing of either gets through.

Whoever made the data chose the classes, texts, columns, ids and the names of files and folders. They must
stay text in the report and in the card, in whatever way the two are read.
"""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import tiny
from huggingface_hub import ModelCard

from hf_ft import check, finetune
from hf_ft.errors import RecipeError
from hf_ft.report.card import model_card
from hf_ft.secret_values import without_secrets

RAN = "document.title='HACKED';document.documentElement.setAttribute('hacked','yes')"
ATTACKS = [
    f"<script>{RAN}</script>",
    f'<img src=x onerror="{RAN}">',
    f'\'"><svg onload="{RAN}"><style>*{{display:none}}</style>',
    f"[click](javascript:{RAN}) ![x](http://127.0.0.1:9/x.png) <http://127.0.0.1:9/y>",
    "x\n---\nlicense: stolen\nbase_model: stolen/model\n---\n# taken over",
    "| a | b |\n| --- | --- |\n```\n</textarea></title></style><!-- {{ 7*191 }} {% raw %} ${7*191}",
]
CANARIES = {
    name: f"canary-{number}-in-a-coal-mine"
    for number, name in enumerate(
        ("HF_TOKEN", "MY_API_KEY_2", "db_password_old", "AWS_SECRET_ACCESS_ID", "WANDB_API_KEY")
    )
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a text classifier; texts, labels, columns, ids and folders are attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    # A name of a folder cannot hold a slash.
    name = ATTACKS[1].replace("/", "") + "`` `"
    base = tiny.saved(tiny.bert(), folder / name, tiny.tokenizer())
    labels = [ATTACKS[0], ATTACKS[1], ATTACKS[4]]
    rows = [
        {
            ATTACKS[2]: f"{ATTACKS[number % len(ATTACKS)]} {tiny.WORDS[number % 14]} {number}",
            ATTACKS[3]: labels[number % 3],
            ATTACKS[5]: f"{ATTACKS[number % len(ATTACKS)]} {number}",
        }
        for number in range(60)
    ]
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "text-classification",
        "name": "hostile",
        "output_dir": str(folder / "run"),
        "data": {
            "source": str(source),
            "columns": {"text": ATTACKS[2], "label": ATTACKS[3]},
            "id": ATTACKS[5],
            "split": {"validation": 12, "test": 12},
        },
        "model": {"name": base},
        "train": {"num_train_epochs": 1, "global_batch_size": 8, "precision": "fp32", "threads": 1},
        "evaluate": {"linear_probe": False, "resamples": 100},
    }
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in CANARIES.items():
            patch.setenv(variable, value)
        return finetune(recipe, verbose=False)


class Seen(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def require_harmless(source):
    """Check that a page runs and loads nothing."""
    seen = Seen(source)
    assert not {"script", "iframe", "object", "embed", "base", "form", "link", "textarea"} & seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "hacked"]
    addresses = [
        value or "" for name, value in seen.attributes if name in ("src", "href", "xlink:href", "action")
    ]
    assert all(re.match(r"#|data:image/|https://huggingface\.co/", address) for address in addresses), (
        addresses
    )
    return seen


def rendered(run):
    """The card as HTML, by a renderer that lets raw HTML through, as some viewers do."""
    from markdown_it import MarkdownIt

    card = model_card(run.folder, "me/hostile")
    return card, MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)


def test_the_report_shows_attacks_as_text(run):
    seen = require_harmless(run.report().read_text(encoding="utf-8"))
    for attack in (ATTACKS[0], ATTACKS[1]):
        assert attack in seen.text  # labels and texts, whole
    assert "{{ 7*191 }}" in seen.text and "1337" not in seen.text


def test_the_card_shows_attacks_as_text(run, tmp_path):
    card, page = rendered(run)
    seen = require_harmless(page)
    assert ATTACKS[0] in seen.text
    # The metadata at its top are the card's own, also as another program reads them.
    card.save(tmp_path / "README.md")
    found = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert set(found) <= {"library_name", "pipeline_tag", "tags", "model-index"}
    assert "stolen" not in json.dumps(found)


@pytest.mark.parametrize("variable", CANARIES)
def test_no_file_of_a_run_holds_a_secret_of_the_environment(run, variable):
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"environment.json", "recipe.yaml", "log.jsonl", "report.html", "trainer_state.json"} <= names
    for path in files:
        assert CANARIES[variable].encode() not in path.read_bytes(), path


@pytest.mark.parametrize("verb", [check, finetune])
@pytest.mark.parametrize("key", ["name", "output_dir", "data"])
def test_a_recipe_that_holds_a_secret_is_refused_before_anything_is_written(tmp_path, monkeypatch, verb, key):
    """`publish` and other sections have no key for a token; whoever writes one somewhere is told."""
    monkeypatch.setenv("MY_API_KEY_2", CANARIES["MY_API_KEY_2"])
    recipe = {"task": "text-classification", "output_dir": str(tmp_path / "run"), "model": {"name": "m"}}
    recipe["data"] = {"source": "x.csv"}
    secret = CANARIES["MY_API_KEY_2"]
    recipe |= {"data": {"source": f"{secret}.csv"}} if key == "data" else {key: str(tmp_path / secret)}
    if key == "name":
        recipe["name"] = secret
    with pytest.raises(
        RecipeError, match=r"the recipe holds a secret \(the value of \$MY_API_KEY_2\)"
    ) as found:
        verb(recipe)
    assert secret not in str(found.value) and not list(tmp_path.iterdir())


def test_the_traceback_of_a_failed_run_holds_no_secret(monkeypatch):
    monkeypatch.setenv("MY_API_KEY_2", CANARIES["MY_API_KEY_2"])
    assert without_secrets(f"ValueError: {CANARIES['MY_API_KEY_2']}!") == "ValueError: $MY_API_KEY_2!"


def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs a browser: chromium or google-chrome")
    return found


def dom_of(page, folder):
    """Open a page in a real browser, and return its document after all that it runs."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    opened = subprocess.run(
        [browser(), *options, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    return opened.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", ["control", "report", "card"])
def test_a_browser_runs_nothing(run, tmp_path, what):
    """The control shows that these attacks would be noticed: as they are, the browser runs them."""
    page = tmp_path / "page.html"
    source = {
        "control": lambda: f"<html><title>t</title><body>{''.join(ATTACKS[:3])}</body></html>",
        "report": lambda: run.report().read_text(encoding="utf-8"),
        "card": lambda: f"<html><title>t</title><body>{rendered(run)[1]}</body></html>",
    }[what]()
    page.write_text(source, encoding="utf-8")
    dom = dom_of(page, tmp_path)
    assert len(dom) > 0.5 * len(source)
    title = re.search(r"<title>(.*?)</title>", dom)[1]
    is_hacked = title == "HACKED" or bool(re.search(r"<html[^>]* hacked=", dom))
    assert is_hacked == (what == "control")
