"""The tokens of every row, made once and kept in flat memory-mapped files.

A file holds the ids of all rows one after the other, in the smallest type that holds the vocabulary. The
folder of a split is named after all that tokens depend on, and is whole once its checksums are written.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from hf_ft.errors import DataError
from hf_ft.storage.atomic import write_json
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.row_store import make_room, mark_use, size_of

if TYPE_CHECKING:
    import torch

# What a tokenizer may give of a row and a batch can be made of; the mask follows from the lengths.
KNOWN_NAMES = frozenset(("input_ids", "token_type_ids", "attention_mask"))
# Characters that are tokenised in one call: work for all threads of the tokenizer, in little memory.
CHUNK_CHARACTERS = 2_000_000
# Bytes that the tokens of all runs take at most, unless those of one run take more.
MOST_BYTES = 5_000_000_000
# Rows that are tokenised again where kept ones are found.
CHECKED_ROWS = 4
# Part of the name: another way of keeping tokens must not read these.
_FORMAT = 1
_SUMS = "checksums.json"


class KeptTokens:
    """The tokens of N rows, read from a folder.

    Args:
        folder: as `keep_tokens` filled it.

    Raises:
        DataError: what is there is not what was written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        arrays = {name: _read(folder / f"{name}.bin", *entry) for name, entry in sums.items()}
        # Tokens of each row before it was cut, and of what is kept of it, int [N].
        self.lengths, self.kept = arrays.pop("lengths").reshape(2, -1).astype(np.int64)
        self.starts = np.cumsum(self.kept) - self.kept
        self.flat = arrays

    def batch(self, rows: np.ndarray, tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give the model's inputs for B rows, padded as the tokenizer pads them to the longest of these.

        Args:
            rows: which rows, int [B].
            tokenizer: names the inputs, the side that is padded and what with.

        Returns:
            The tokenizer's inputs, int64 [B, L] each.
        """
        import torch

        lengths = self.kept[rows]
        columns = np.arange(lengths.max())
        before = len(columns) - lengths if tokenizer.padding_side == "left" else np.zeros_like(lengths)
        places = columns - before[:, None]
        mask = (places >= 0) & (places < lengths[:, None])
        found = (self.starts[rows][:, None] + places)[mask]
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        batch = {}
        for name in tokenizer.model_input_names:
            values = mask.astype(np.int64)
            if name != "attention_mask":
                values = np.full(mask.shape, fill[name], np.int64)
                values[mask] = self._ids(name, found)
            batch[name] = torch.from_numpy(values)
        return batch

    def agrees(self, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int) -> bool:
        """Tokenise a few of the rows again and tell whether they are what is kept."""
        if len(self.kept) != len(texts):
            return False
        few = sorted({int(row) for row in np.linspace(0, len(texts) - 1, CHECKED_ROWS)})
        encoded, lengths = _tokenize(tokenizer, texts, pairs, few, most)
        places = [np.arange(self.kept[row]) + self.starts[row] for row in few]
        return self.lengths[few].tolist() == lengths and all(
            self._ids(name, own).tolist() == ids
            for name, rows in encoded.items()
            for own, ids in zip(places, rows, strict=True)
        )

    def _ids(self, name: str, places: np.ndarray) -> np.ndarray:
        # Types that are zero in every row are not kept.
        return self.flat[name][places] if name in self.flat else np.zeros(len(places), np.uint8)


def keep_tokens(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    most: int,
    in_use: Collection[Path] = (),
) -> KeptTokens:
    """Give the tokens of every row, made once for the same texts and tokenizer, in any run.

    Several processes that need the same wait for the first. What is damaged is made anew.

    Args:
        tokenizer: a fast one of transformers; what is in its file is part of what tokens are kept under.
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
            kept = _opened(folder)
            if kept is None or not kept.agrees(tokenizer, texts, pairs, most):
                shutil.rmtree(folder, ignore_errors=True)
                _write(folder, tokenizer, texts, pairs, most)
                kept = KeptTokens(folder)
                own = {folder, *in_use}
                size = sum(size_of(part) for part in own if part.is_dir())
                make_room(folder.parent, size, max(size, MOST_BYTES), own)
            mark_use(folder, {"rows": len(texts)})
    except OSError as error:
        raise DataError(
            f"{folder}: {error}; tokens are kept there, and HF_FT_CACHE can name another folder"
        ) from error
    return kept


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


def _opened(folder: Path) -> KeptTokens | None:
    try:
        return KeptTokens(folder)
    except (DataError, OSError, ValueError, TypeError, KeyError, AttributeError):
        # Nothing is there yet, a process was killed before it was whole, or a file is damaged.
        return None


def _read(path: Path, kind: str, total: int) -> np.ndarray:
    dtype = np.dtype(kind)
    # Nothing can be mapped of an empty file: not one row has a token.
    array = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
    if zlib.crc32(array.data) != total:
        raise DataError(f"{path}: is not what was written there; delete its folder, and it is made again")
    return array


def _write(
    folder: Path, tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, most: int
) -> None:
    mark_use(folder, {"rows": len(texts)})
    largest = max(tokenizer.get_vocab().values())
    kinds: dict[str, np.dtype[Any]] = {"input_ids": np.min_scalar_type(largest)}
    if "token_type_ids" in tokenizer.model_input_names:
        kinds["token_type_ids"] = np.dtype(np.uint8)
    totals, used = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, False)
    lengths: list[np.ndarray] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in kinds}
        for rows in _chunks(texts, pairs):
            encoded, whole = _tokenize(tokenizer, texts, pairs, rows, most)
            for name, kind in kinds.items():
                values = np.fromiter(chain.from_iterable(encoded[name]), kind)
                files[name].write(values.data)
                totals[name] = zlib.crc32(values.data, totals[name])
                used[name] |= bool(values.any())
            lengths.append(np.array([whole, [len(ids) for ids in encoded["input_ids"]]], np.int64))
    both = np.concatenate(lengths, axis=1)
    both.tofile(folder / "lengths.bin")
    sums = {name: (kind.str, totals[name]) for name, kind in kinds.items()}
    if not used.get("token_type_ids", True):
        (folder / "token_type_ids.bin").unlink()
        del sums["token_type_ids"]
    write_json(folder / _SUMS, {**sums, "lengths": (both.dtype.str, zlib.crc32(both.data))})


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
