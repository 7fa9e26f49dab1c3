"""Token cache: the tokens of every row, made once and read from a row store.

Ids are stored in the smallest type that holds the vocabulary. The folder of a split is named after all that
tokens depend on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from hf_ft.errors import DataError
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.eviction import make_room, mark_use, size_of
from hf_ft.storage.row_store import Field, RowStore

if TYPE_CHECKING:
    import torch

# What a tokenizer may give of a row and a batch can be made of; the mask follows from the lengths.
KNOWN_NAMES = frozenset(("input_ids", "token_type_ids", "attention_mask"))
# Characters that are tokenised in one call: work for all threads of the tokenizer, in little memory.
CHUNK_CHARACTERS = 2_000_000
# Bytes that the tokens of all runs take at most, unless those of one run take more.
MOST_BYTES = 5_000_000_000
# Part of the name: another way of storing tokens must not read these.
_FORMAT = 2
# Field with the number of tokens of a row before it was cut.
_WHOLE_LENGTH = "whole_length"


class CachedTokens:
    """The tokens of N rows.

    Args:
        store: filled for every row.
    """

    def __init__(self, store: RowStore):
        self.store, self.folder = store, store.folder
        # Tokens of each row before it was cut, and of what is stored of it, int [N].
        self.lengths = store.flat(_WHOLE_LENGTH)[0].numpy().astype(np.int64)
        self.kept = store.lengths

    def batch(self, rows: np.ndarray, tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give the model's inputs for B rows, padded as the tokenizer pads them to the longest of these.

        Args:
            rows: which rows, int [B].
            tokenizer: names the inputs, the side that is padded and what with.

        Returns:
            The tokenizer's inputs, int64 [B, L] each.

        Raises:
            DataError: a row is not what was written.
        """
        import torch

        self.store.check(rows)
        lengths = self.kept[rows]
        columns = np.arange(lengths.max())
        before = len(columns) - lengths if tokenizer.padding_side == "left" else np.zeros_like(lengths)
        places = columns - before[:, None]
        mask = (places >= 0) & (places < lengths[:, None])
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        stored = {field.name for field in self.store.fields}
        batch = {}
        for name in tokenizer.model_input_names:
            values = mask.astype(np.int64)
            if name != "attention_mask":
                values = np.full(mask.shape, fill[name], np.int64)
                # Token types that are zero in every row are not stored.
                values[mask] = self._ids(name, rows, places, mask) if name in stored else 0
            batch[name] = torch.from_numpy(values)
        return batch

    def _ids(self, name: str, rows: np.ndarray, places: np.ndarray, mask: np.ndarray) -> np.ndarray:
        flat, starts = self.store.flat(name)
        found: np.ndarray = flat.numpy()[(starts[rows][:, None] + places)[mask]]
        return found


def cache_tokens(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    most: int,
    in_use: Collection[Path] = (),
) -> CachedTokens:
    """Give the tokens of every row, made once for the same texts and tokenizer, in any run.

    Several processes that need the same wait for the first. What is damaged is made anew.

    Args:
        tokenizer: a fast one of transformers; what is in its file is part of what tokens are stored under.
        texts: one of each row.
        pairs: the second text of each row, or None.
        most: tokens of a row; what is longer is cut as the tokenizer cuts it.
        in_use: folders of the same run's other rows, which must not be deleted.

    Raises:
        DataError: they cannot be written.
    """
    folder = cache_folder() / "tokens" / _name(tokenizer, texts, pairs, most)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            store = _found(folder, tokenizer, texts, pairs, most)
            if store is None:
                shutil.rmtree(folder, ignore_errors=True)
                mark_use(folder, {"rows": len(texts)})
                store = _written(folder, tokenizer, texts, pairs, most)
                own = {folder, *in_use}
                size = sum(size_of(part) for part in own if part.is_dir())
                make_room(folder.parent, size, max(size, MOST_BYTES), own)
            mark_use(folder, {"rows": len(texts)})
    except OSError as error:
        raise DataError(
            f"{folder}: {error}; tokens are stored there, and HF_FT_CACHE can name another folder"
        ) from error
    return CachedTokens(store)


def _name(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int) -> str:
    """Hash all that tokens are known to depend on."""
    backend = tokenizer.backend_tokenizer
    # The settings of the last call live in the tokenizer; the next call makes its own.
    backend.no_truncation()
    backend.no_padding()
    settings = (
        [_FORMAT, type(tokenizer).__name__, tokenizer.model_input_names, tokenizer.truncation_side, most],
        [tokenizer.split_special_tokens, len(texts), pairs is not None],
        [importlib.metadata.version(name) for name in ("tokenizers", "transformers")],
    )
    state = hashlib.blake2b(repr(settings).encode() + backend.to_str().encode(), digest_size=16)
    for column in (texts, pairs or []):
        # Where one text ends and the next begins, so that no other texts read the same.
        state.update(np.array([len(text) for text in column], np.int64).tobytes())
        state.update("".join(column).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _found(
    folder: Path, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int
) -> RowStore | None:
    """Open what is stored, if it is whole and what the tokenizer makes of a few rows."""
    store = RowStore.open(folder)
    if store is None or len(store) != len(texts):
        return None
    store.unmark_damaged()
    fields = [field.name for field in store.fields]

    def compute(rows: np.ndarray) -> Iterator[list[torch.Tensor] | None]:
        import torch

        encoded, lengths = _tokenize(tokenizer, texts, pairs, rows.tolist(), most)
        for place in range(len(rows)):
            values = {name: encoded[name][place] for name in fields if name in encoded}
            values[_WHOLE_LENGTH] = [lengths[place]]
            yield [torch.tensor(values[field.name]).to(field.dtype) for field in store.fields]

    return store if not len(store.missing) and store.agrees(compute) else None


def _written(
    folder: Path, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int
) -> RowStore:
    """Tokenise all rows and store them."""
    import torch

    types = {"input_ids": _smallest(max(tokenizer.get_vocab().values()))}
    if "token_type_ids" in tokenizer.model_input_names:
        types["token_type_ids"] = torch.uint8
    parts: dict[str, list[np.ndarray]] = {name: [] for name in types}
    whole, cut = list[int](), list[int]()
    for rows in _chunks(texts, pairs):
        encoded, lengths = _tokenize(tokenizer, texts, pairs, rows, most)
        whole += lengths
        cut += [len(ids) for ids in encoded["input_ids"]]
        for name, kind in types.items():
            numbers = np.dtype(str(kind).removeprefix("torch."))
            parts[name].append(np.fromiter(chain.from_iterable(encoded[name]), numbers))
    flat = {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
    if "token_type_ids" in flat and not bool(flat["token_type_ids"].any()):
        del flat["token_type_ids"]
    fields = [Field(name, (0,), types[name], length_axis=0) for name in flat]
    store = RowStore(folder, [*fields, Field(_WHOLE_LENGTH, (1,), torch.int32)], np.array(cut, np.int64))
    store.write_all({**flat, _WHOLE_LENGTH: torch.tensor(whole, dtype=torch.int32)})
    return store


def _smallest(largest: int) -> torch.dtype:
    """Give the smallest unsigned type that holds a number."""
    import torch

    return next(
        kind for kind in (torch.uint8, torch.uint16, torch.uint32) if largest <= torch.iinfo(kind).max
    )


def _chunks(texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[Sequence[int]]:
    """Cut the rows into chunks of about as many characters."""
    sizes = np.array([len(text) for text in texts])
    if pairs is not None:
        sizes += np.array([len(text) for text in pairs])
    chunk = np.cumsum(sizes) // CHUNK_CHARACTERS
    starts = np.flatnonzero(np.diff(chunk, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(texts)], strict=True):
        yield range(start, stop)


def _tokenize(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, rows: Sequence[int], most: int
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Tokenise some rows; only those that are too long a second time, to be cut.

    Returns:
        The ids, and whatever else the tokenizer gives but the mask; and the lengths before cutting.
    """

    def call(chosen: Sequence[int], **options: Any) -> dict[str, list[list[int]]]:
        parts = [[column[row] for row in chosen] for column in (texts, pairs) if column is not None]
        return dict(tokenizer(*parts, verbose=False, return_attention_mask=False, **options))

    encoded = call(rows, truncation=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    long = [place for place, length in enumerate(lengths) if length > most]
    if long:
        for name, values in call([rows[place] for place in long], truncation=True, max_length=most).items():
            for place, value in zip(long, values, strict=True):
                encoded[name][place] = value
    return encoded, lengths
