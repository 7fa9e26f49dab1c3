"""Token cache: tokenize every row once, and read the tokens from a row store.

Ids are stored in the smallest integer type that holds the vocabulary. The folder of a split is named by a
hash of everything that its tokens depend on.
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

from hf_ft.causes import explain
from hf_ft.errors import DataError
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.eviction import make_room, mark_use, size_of
from hf_ft.storage.row_store import Field, RowStore

if TYPE_CHECKING:
    import torch

# The outputs of a tokenizer that the cache can reproduce; the attention mask follows from the lengths.
KNOWN_NAMES = frozenset(("input_ids", "token_type_ids", "attention_mask"))
# Characters that are tokenized in one call: enough for all threads of the tokenizer, in little memory.
CHUNK_CHARACTERS = 2_000_000
# The largest size of the whole cache in bytes; one run may exceed it.
MOST_BYTES = 5_000_000_000
# Version of the storage format, a part of the folder's name.
_FORMAT = 2
# The field that holds the number of tokens of a row before truncation.
_WHOLE_LENGTH = "whole_length"


class CachedTokens:
    """The tokens of N rows.

    Args:
        store: a store that holds every row.
    """

    def __init__(self, store: RowStore):
        self.store, self.folder = store, store.folder
        # Number of tokens of each row before and after truncation, int [N].
        self.lengths = store.flat(_WHOLE_LENGTH)[0].numpy().astype(np.int64)
        self.cut_lengths = store.lengths

    def batch(self, rows: np.ndarray, tokenizer: Any) -> dict[str, torch.Tensor]:
        """Return the model's inputs for B rows, padded to the longest of them as the tokenizer pads.

        Args:
            rows: positions of the rows, int [B].
            tokenizer: decides the names of the inputs, the side of the padding and the padding ids.

        Returns:
            The tokenizer's outputs, int64 [B, L] each.

        Raises:
            DataError: the checksum of a stored row is wrong.
        """
        import torch

        self.store.check(rows)
        lengths = self.cut_lengths[rows]
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
    max_length: int,
    in_use: Collection[Path] = (),
) -> CachedTokens:
    """Return the tokens of every row; tokenize them if no earlier run has stored them.

    Of several processes that need the same tokens, one computes and the others wait. A damaged store is
    computed again.

    Args:
        tokenizer: a fast tokenizer of transformers; its settings are part of the folder's name.
        texts: the text of each row.
        pairs: the second text of each row, or None.
        max_length: largest number of tokens of a row; longer rows are truncated by the tokenizer.
        in_use: folders of the other splits of this run, which must not be evicted.

    Raises:
        DataError: the cache folder cannot be written.
    """
    folder = cache_folder() / "tokens" / _store_name(tokenizer, texts, pairs, max_length)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            store = _open_stored(folder, tokenizer, texts, pairs, max_length)
            if store is None:
                shutil.rmtree(folder, ignore_errors=True)
                mark_use(folder, {"rows": len(texts)})
                store = _tokenize_all(folder, tokenizer, texts, pairs, max_length)
                own = {folder, *in_use}
                size = sum(size_of(part) for part in own if part.is_dir())
                make_room(folder.parent, size, max(size, MOST_BYTES), own)
            mark_use(folder, {"rows": len(texts)})
    except OSError as error:
        raise DataError(
            f"cannot store tokens: {explain(error)} HF_FT_CACHE may also name another folder"
        ) from error
    return CachedTokens(store)


def _store_name(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> str:
    """Hash everything that the tokens depend on."""
    backend = tokenizer.backend_tokenizer
    # A tokenizer remembers truncation and padding of its last call; they are not part of the key.
    backend.no_truncation()
    backend.no_padding()
    settings = (
        [
            _FORMAT,
            type(tokenizer).__name__,
            tokenizer.model_input_names,
            tokenizer.truncation_side,
            max_length,
        ],
        [tokenizer.split_special_tokens, len(texts), pairs is not None],
        [importlib.metadata.version(name) for name in ("tokenizers", "transformers")],
    )
    state = hashlib.blake2b(repr(settings).encode() + backend.to_str().encode(), digest_size=16)
    for column in (texts, pairs or []):
        # The lengths tell where one text ends, so that other texts with the same joined text differ.
        state.update(np.array([len(text) for text in column], np.int64).tobytes())
        state.update("".join(column).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _open_stored(
    folder: Path, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> RowStore | None:
    """Open the store if it is complete and a few rows, tokenized again, are equal to it; else None."""
    store = RowStore.open(folder)
    if store is None or len(store) != len(texts):
        return None
    store.unmark_damaged()
    fields = [field.name for field in store.fields]

    def compute(rows: np.ndarray) -> Iterator[list[torch.Tensor] | None]:
        import torch

        encoded, lengths = _tokenize(tokenizer, texts, pairs, rows.tolist(), max_length)
        for place in range(len(rows)):
            values = {name: encoded[name][place] for name in fields if name in encoded}
            values[_WHOLE_LENGTH] = [lengths[place]]
            yield [torch.tensor(values[field.name]).to(field.dtype) for field in store.fields]

    return store if not len(store.missing) and store.agrees(compute) else None


def _tokenize_all(
    folder: Path, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> RowStore:
    """Tokenize all rows and store them."""
    import torch

    types = {"input_ids": _smallest_dtype(max(tokenizer.get_vocab().values()))}
    if "token_type_ids" in tokenizer.model_input_names:
        types["token_type_ids"] = torch.uint8
    parts: dict[str, list[np.ndarray]] = {name: [] for name in types}
    whole, cut = list[int](), list[int]()
    for rows in _chunks(texts, pairs):
        encoded, lengths = _tokenize(tokenizer, texts, pairs, rows, max_length)
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


def _smallest_dtype(largest: int) -> torch.dtype:
    """Return the smallest unsigned integer type that holds this number."""
    import torch

    return next(
        kind for kind in (torch.uint8, torch.uint16, torch.uint32) if largest <= torch.iinfo(kind).max
    )


def _chunks(texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[Sequence[int]]:
    """Divide the rows into chunks of about CHUNK_CHARACTERS characters."""
    sizes = np.array([len(text) for text in texts])
    if pairs is not None:
        sizes += np.array([len(text) for text in pairs])
    chunk = np.cumsum(sizes) // CHUNK_CHARACTERS
    starts = np.flatnonzero(np.diff(chunk, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(texts)], strict=True):
        yield range(start, stop)


def _tokenize(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, rows: Sequence[int], max_length: int
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Tokenize some rows; tokenize rows that are too long a second time, with truncation.

    Returns:
        The tokenizer's outputs without the attention mask; and the lengths before truncation.
    """

    def call(chosen: Sequence[int], **options: Any) -> dict[str, list[list[int]]]:
        parts = [[column[row] for row in chosen] for column in (texts, pairs) if column is not None]
        return dict(tokenizer(*parts, verbose=False, return_attention_mask=False, **options))

    encoded = call(rows, truncation=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    long = [place for place, length in enumerate(lengths) if length > max_length]
    if long:
        for name, values in call(
            [rows[place] for place in long], truncation=True, max_length=max_length
        ).items():
            for place, value in zip(long, values, strict=True):
                encoded[name][place] = value
    return encoded, lengths
