"""Rows are tokenized once, and again when anything that tokens depend on has changed."""

import multiprocessing
import os

import numpy as np
import pytest
import tiny
import torch

from hf_ft.errors import DataError
from hf_ft.inputs import token_cache as tokens
from hf_ft.inputs.token_cache import cache_tokens
from hf_ft.storage.eviction import mark_use, size_of
from hf_ft.storage.row_store import CHECKED_ROWS, RowStore

TEXTS = ["red light", "go left", "stop", "slow road a sign", "green", "fast fast fast go right", "a"]
PAIRS = TEXTS[::-1]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """Give a function that caches tokens and returns them, and whether all rows were tokenized."""
    written = []
    write = tokens._tokenize_all
    monkeypatch.setattr(tokens, "_tokenize_all", lambda *given: written.append(given) or write(*given))

    def call(tokenizer, texts, pairs=None, most=16):
        before = len(written)
        return cache_tokens(tokenizer, texts, pairs, most), len(written) > before

    return call


def _flat(kept):
    """The ids of all rows, by name."""
    return {field.name: kept.store.flat(field.name)[0].tolist() for field in kept.store.fields}


def expected(tokenizer, texts, pairs, most, rows):
    """Tokenize these rows with transformers."""
    parts = [[column[row] for row in rows] for column in (texts, pairs) if column is not None]
    return tokenizer(*parts, truncation=True, max_length=most, padding=True, return_tensors="pt")


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["text", "pair"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("most", [5, 16])
@pytest.mark.parametrize(
    "names",
    [["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"], ["input_ids"]],
)
def test_a_batch_is_what_the_tokenizer_makes_of_its_rows(pairs, side, most, names):
    tokenizer = tiny.tokenizer()
    tokenizer.padding_side, tokenizer.model_input_names = side, names
    tokenizer.truncation_side = "left" if side == "right" else "right"
    # The padding id is not zero, so that padding that is not filled in would be noticed.
    tokenizer.pad_token = "[MASK]"
    kept = cache_tokens(tokenizer, TEXTS, pairs, most)
    for rows in ([0, 3, 5], [2], [6, 6, 1, 4], range(7)):
        batch = kept.batch(np.array(rows), tokenizer)
        whole = expected(tokenizer, TEXTS, pairs, most, rows)
        assert batch.keys() == whole.keys() == set(names)
        for name in names:
            assert batch[name].dtype == whole[name].dtype and batch[name].tolist() == whole[name].tolist()
    whole = tokenizer(TEXTS, pairs)["input_ids"]
    assert kept.lengths.tolist() == [len(ids) for ids in whole] and kept.lengths.max() > 5
    types = {field.name: field.dtype for field in kept.store.fields}
    assert types["input_ids"] == torch.uint8
    assert ("token_type_ids" in types) == ("token_type_ids" in names and pairs is not None)


def test_the_smallest_type_holds_every_token():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(300)])
    texts = ["word299", "word0"]
    kept = cache_tokens(tokenizer, texts, None, 16)
    flat = kept.store.flat("input_ids")[0]
    assert flat.dtype == torch.uint16 and max(flat.tolist()) > 299
    assert kept.batch(np.arange(2), tokenizer)["input_ids"].tolist() == tokenizer(texts)["input_ids"]


def test_chunks_change_nothing(monkeypatch, made):
    whole = made(tiny.tokenizer(), TEXTS, PAIRS)[0]
    flat = _flat(whole)
    monkeypatch.setattr(tokens, "CHUNK_CHARACTERS", 20)
    monkeypatch.setenv("HF_FT_CACHE", os.environ["HF_FT_CACHE"] + "/other")
    assert len(list(tokens._chunks(TEXTS, PAIRS))) > 3
    parts = made(tiny.tokenizer(), TEXTS, PAIRS)[0]
    assert parts.folder != whole.folder and parts.lengths.tolist() == whole.lengths.tolist()
    assert flat == _flat(parts)


def test_the_same_rows_are_tokenized_once(made, monkeypatch):
    first, anew = made(tiny.tokenizer(), TEXTS)
    assert anew
    tokenizer = tiny.tokenizer()
    # A tokenizer remembers the settings of its last call; they are not part of the key.
    tokenizer(TEXTS, truncation=True, max_length=4, padding=True)
    seen = []
    call = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer),
        "__call__",
        lambda self, texts, **options: seen.append(len(texts)) or call(self, texts, **options),
    )
    again, anew = made(tokenizer, TEXTS)
    assert not anew and again.folder == first.folder
    assert again.lengths.tolist() == first.lengths.tolist() and sum(seen) == CHECKED_ROWS < len(TEXTS)


def test_other_texts_or_tokenizers_are_tokenized_again(made):
    """ds#3297: an old result for what has changed."""
    texts, pairs = ["one two", "three"], ["four", "five"]
    made(tiny.tokenizer(), texts, pairs)
    assert made(tiny.tokenizer(), texts)[1]
    assert made(tiny.tokenizer(), [*texts, *pairs])[1]
    assert made(tiny.tokenizer(), ["one", "twothree"])[1]
    assert made(tiny.tokenizer(), ["one two", ""], ["three", "fourfive"])[1]
    assert made(tiny.tokenizer(), ["three", "one two"], pairs)[1]
    assert made(tiny.tokenizer(), texts, pairs, most=15)[1]
    assert not made(tiny.tokenizer(), texts, pairs)[1]
    changes = {"truncation_side": "left", "split_special_tokens": True, "model_input_names": ["input_ids"]}
    for name, value in changes.items():
        other = tiny.tokenizer()
        setattr(other, name, value)
        assert made(other, texts, pairs)[1], name
    other = tiny.tokenizer()
    other.add_tokens(["threethree"])
    assert made(other, texts, pairs)[1]


def damage(path, place=-1):
    """Change one byte of a file without changing its size."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["input_ids.bin", "token_type_ids.bin", "lengths.bin"])
def test_damaged_truncated_or_missing_files_are_tokenized_again(made, name):
    """Damaged tokens must never be used for training."""
    first, _ = made(tiny.tokenizer(), TEXTS, PAIRS)
    batch = first.batch(np.arange(7), tiny.tokenizer())
    file = first.folder / name
    for harm in (
        lambda: damage(file),
        lambda: file.write_bytes(file.read_bytes()[:-8]),
        lambda: file.write_bytes(b""),
        lambda: file.unlink(),
        lambda: damage(first.folder / "store.json", place=3),
        lambda: (first.folder / "store.json").write_bytes(b"\xff\xfe"),
        lambda: (first.folder / "store.json").unlink(),
    ):
        harm()
        again, anew = made(tiny.tokenizer(), TEXTS, PAIRS)
        assert anew
        assert all((again.batch(np.arange(7), tiny.tokenizer())[key] == batch[key]).all() for key in batch)
    assert not made(tiny.tokenizer(), TEXTS, PAIRS)[1]


def test_wrong_tokens_with_the_right_key_are_found_by_a_sample(made, monkeypatch):
    """The code of a tokenizer can change without its file."""
    folder = made(tiny.tokenizer(), TEXTS)[0].folder
    other = tiny.tokenizer()
    other.add_tokens(["red light"])
    monkeypatch.setattr(tokens, "_store_name", lambda *given: folder.name)
    assert made(other, TEXTS)[1]
    assert not made(other, TEXTS)[1]


def test_an_unfinished_store_of_a_killed_process_is_tokenized_again(made):
    def killed(*given):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowStore, "_compute_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tiny.tokenizer(), TEXTS)
    assert len(list((tokens.cache_folder() / "tokens").glob("*/input_ids.bin"))) == 1
    assert made(tiny.tokenizer(), TEXTS)[1]
    assert not made(tiny.tokenizer(), TEXTS)[1]


def _keep(queue):
    """Run in another process: cache the tokens, and report whether they were computed."""
    kept = []
    write = tokens._tokenize_all
    tokens._tokenize_all = lambda *given: kept.append(given) or write(*given)
    found = cache_tokens(tiny.tokenizer(), TEXTS, None, 16)
    queue.put((len(kept), _flat(found)["input_ids"]))


def test_one_of_two_processes_tokenizes_and_the_other_reads(monkeypatch):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_keep, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(made for made, _ in found) == [0, 1] and found[0][1] == found[1][1]


def test_the_tokens_used_longest_ago_are_evicted(made, monkeypatch):
    folders = []
    for number, text in enumerate(["red", "green", "blue"]):
        folders.append(made(tiny.tokenizer(), [text] * 100)[0].folder)
        os.utime(folders[-1] / "use", (number, number))
    unfinished = folders[0].with_name("killed")
    mark_use(unfinished, {})
    os.utime(unfinished / "use", (0, 0))
    # Reading tokens counts as use.
    made(tiny.tokenizer(), ["red"] * 100)
    monkeypatch.setattr(tokens, "MOST_BYTES", 3.5 * size_of(folders[0]))
    last = cache_tokens(tiny.tokenizer(), ["stop"] * 100, None, 16, in_use=[folders[2]]).folder
    assert [folder.is_dir() for folder in (*folders, last, unfinished)] == [True, False, True, True, False]
    # The tokens of the run itself are never evicted.
    monkeypatch.setattr(tokens, "MOST_BYTES", 1)
    own = cache_tokens(tiny.tokenizer(), ["go"] * 100, None, 16, in_use=[last]).folder
    assert [folder.is_dir() for folder in (*folders, last, own)] == [False, False, False, True, True]


def test_a_folder_that_cannot_be_used_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    (tmp_path / "tokens").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot store tokens: .*tokens.*a file lies where.*HF_FT_CACHE"):
        cache_tokens(tiny.tokenizer(), TEXTS, None, 16)


def test_a_full_disk_is_named(monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "_tokenize_all", full)
    with pytest.raises(DataError, match=r"cannot store tokens: A disk is full\. Free some .*HF_FT_CACHE may"):
        cache_tokens(tiny.tokenizer(), TEXTS, None, 16)
