"""Lengths of texts are counted once, and again whenever anything that they depend on has changed."""

import pytest
import tiny

from hf_ft.data.text import kept_lengths


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Count through the cache; gives the lengths, and whether they were counted anew."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))

    def call(tokenizer, texts, pairs=None):
        anew = []

        def count():
            anew.append(True)
            return [len(tokens) for tokens in tokenizer(texts, pairs)["input_ids"]]

        return kept_lengths(tokenizer, texts, pairs, count), bool(anew)

    return call


def test_the_same_texts_are_counted_once(counted):
    texts = ["one two three", "one", ""]
    first, anew = counted(tiny.tokenizer(), texts)
    assert anew and len(set(first)) == 3
    tokenizer = tiny.tokenizer()
    # The settings of the last call live in the tokenizer, and do not make it another one.
    tokenizer(texts, truncation=True, max_length=4, padding=True)
    assert counted(tokenizer, texts) == (first, False)


def test_other_texts_and_other_tokenizers_are_counted_anew(counted):
    """ds#3297: an old result for what has changed."""
    texts, pairs = ["one two", "three"], ["four", "five"]
    counted(tiny.tokenizer(), texts, pairs)
    assert counted(tiny.tokenizer(), texts)[1]
    assert counted(tiny.tokenizer(), [*texts, *pairs])[1]
    assert counted(tiny.tokenizer(), ["one", "twothree"])[1]
    assert counted(tiny.tokenizer(), texts[:1], [*texts[1:], *pairs][:1])[1]
    assert counted(tiny.tokenizer(), ["three", "one two"], pairs)[1]
    assert not counted(tiny.tokenizer(), texts, pairs)[1]
    other = tiny.tokenizer()
    other.add_tokens(["threethree"])
    assert counted(other, texts, pairs)[1]


def test_a_tokenizer_without_a_file_counts_in_every_run(counted):
    class Slow:
        is_fast = False

        def __call__(self, texts, pairs):
            return {"input_ids": [text.split() for text in texts]}

    assert counted(Slow(), ["one two"]) == ([2], True) == counted(Slow(), ["one two"])
