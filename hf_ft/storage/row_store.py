"""Tensors of every row in memory-mapped files: filled row by row, each with a checksum.

Decoded pictures, tokens and activations are stored this way. A folder describes itself (`store.json`), so
that it can be opened without knowing what is in it; whether it holds what it should is found by computing a
few rows again (`RowStore.agrees`).
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError
from hf_ft.storage.atomic import read_json, write_json

if TYPE_CHECKING:
    import torch

_DESCRIPTION, _LENGTHS = "store.json", "lengths.bin"
# Rows that are computed again where a store is found.
CHECKED_ROWS = 4


@dataclass(frozen=True)
class Field:
    """One tensor that is kept of every row.

    Args:
        name: of the field; names its file.
        shape: of one row; the axis `length_axis`, where there is one, holds what is added to the row's own
            length.
        dtype: its type.
        length_axis: the axis that is as long as the row, or None where all rows have one shape.
        fill: what a shorter row is padded with on the right.
        channels_last: whether [C, H, W] is kept as [H, W, C], the order in which the network works.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    length_axis: int | None = None
    fill: float = 0.0
    channels_last: bool = False

    def sizes(self, lengths: np.ndarray) -> np.ndarray:
        """Count the numbers of each row, int [rows]."""
        if self.length_axis is None:
            return np.full(len(lengths), int(np.prod(self.shape)))
        others = [size for axis, size in enumerate(self.shape) if axis != self.length_axis]
        return (lengths + self.shape[self.length_axis]) * int(np.prod(others))

    def shape_of(self, length: int) -> tuple[int, ...]:
        """Give the shape of a row of this length."""
        return tuple(
            size + length if axis == self.length_axis else size for axis, size in enumerate(self.shape)
        )

    def to_json(self) -> dict[str, Any]:
        """Give the field as plain values."""
        return asdict(self) | {"shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Field:
        """Take back what `to_json` gave."""
        import torch

        known = {"shape": tuple(value["shape"]), "dtype": getattr(torch, value["dtype"])}
        return cls(**{**value, **known})


class RowStore:
    """A folder with the fields of N rows.

    A row is filled once its data and then its mark are written, so that an interrupted fill goes on where it
    stopped. Every row has a checksum, compared the first time it is read.

    Args:
        folder: made if it is not there.
        fields: what is stored of a row.
        lengths: length of each row, int [N]; zeros where rows have none.

    Raises:
        OSError: the disk has no room.
    """

    def __init__(self, folder: Path, fields: Sequence[Field], lengths: np.ndarray):
        import torch

        self.folder, self.fields, self.lengths = folder, list(fields), np.asarray(lengths, np.int64)
        if read_json(folder / _DESCRIPTION) != self._description:
            self.lengths.tofile(_made(folder) / _LENGTHS)
            write_json(folder / _DESCRIPTION, self._description)
        rows = len(self.lengths)
        self._starts, self._data = dict[str, np.ndarray](), dict[str, torch.Tensor]()
        self._bytes = list[tuple[memoryview, np.ndarray]]()
        for field in self.fields:
            starts = np.concatenate([[0], np.cumsum(field.sizes(self.lengths))])
            data = _mapped(folder / f"{field.name}.bin", int(starts[-1]), field.dtype)
            self._starts[field.name], self._data[field.name] = starts, data
            self._bytes.append((data.view(torch.uint8).numpy().data, starts * field.dtype.itemsize))
        self._marks = np.memmap(_allocated(folder / "filled.bin", rows), np.uint8, "r+", shape=(rows,))
        self._sums = np.memmap(_allocated(folder / "checksums.bin", 4 * rows), np.uint32, "r+", shape=(rows,))
        self._checked = np.zeros(rows, bool)

    @classmethod
    def open(cls, folder: Path) -> RowStore | None:
        """Open the store in a folder; None where there is none, or its description is damaged."""
        try:
            about = read_json(folder / _DESCRIPTION, dict) or {}
            fields = [Field.from_json(field) for field in about["fields"]]
            lengths = np.fromfile(folder / _LENGTHS, np.int64)
            whole = (len(lengths), zlib.crc32(lengths.data)) == (about["rows"], about["lengths"])
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return None
        return cls(folder, fields, lengths) if whole else None

    @property
    def _description(self) -> dict[str, Any]:
        fields = [field.to_json() for field in self.fields]
        return {"fields": fields, "rows": len(self.lengths), "lengths": zlib.crc32(self.lengths.data)}

    def __len__(self) -> int:
        return len(self.lengths)

    def __contains__(self, row: int) -> bool:
        return bool(self._marks[row])

    def __reduce__(self) -> Any:
        # A worker process that is not forked opens the files again.
        return RowStore, (self.folder, self.fields, self.lengths)

    @property
    def missing(self) -> np.ndarray:
        """Positions of the rows that are not filled yet."""
        return np.flatnonzero(self._marks == 0)

    @property
    def filled(self) -> np.ndarray:
        """Positions of the rows that are filled."""
        return np.flatnonzero(self._marks)

    def agrees(
        self,
        compute: Callable[[np.ndarray], Iterable[Sequence[torch.Tensor] | None]],
        close: Callable[[Field, torch.Tensor, torch.Tensor], bool] | None = None,
    ) -> bool:
        """Compute a few of the filled rows again, and tell whether they are what is stored.

        The key of a store names all that its values are known to depend on; what it does not know of (a
        changed class of a user's own, a damaged disk) is found here.

        Args:
            compute: gives the fields of the rows at these positions, without padding, a list a row; None for
                a row that is not stored like this.
            close: tells whether a computed and a stored tensor of a field are the same; default: bit for bit.
        """
        chosen = self.filled[:: max(1, len(self.filled) // CHECKED_ROWS)][:CHECKED_ROWS]
        same = close or _equal
        try:
            for row, values in zip(chosen.tolist(), compute(chosen), strict=True):
                if values is None:
                    return False
                stored = self.view(row)
                if not all(map(same, self.fields, values, stored)):
                    return False
        except (DataError, RuntimeError):  # damaged, or of another shape
            return False
        return True

    def forget_damaged(self) -> None:
        """Compare the checksum of every filled row; a row that is damaged is no longer filled."""
        filled = self.filled
        damaged = filled[self._sums_of(filled) != self._sums[filled]]
        self._marks[damaged] = 0

    def write(self, row: int, values: Sequence[torch.Tensor]) -> None:
        """Fill one row: one tensor for each field, without padding."""
        for field, value in zip(self.fields, values, strict=True):
            start, stop = self._starts[field.name][row : row + 2]
            stored = value.permute(1, 2, 0) if field.channels_last else value
            self._data[field.name][start:stop] = stored.reshape(-1)
        self._sums[row] = self._sums_of(np.array([row]))[0]
        self._marks[row] = 1
        self._checked[row] = True

    def write_all(self, values: Mapping[str, torch.Tensor]) -> None:
        """Fill all rows at once.

        Args:
            values: field name -> the numbers of all rows, one row after the other, flat.
        """
        for name, flat in values.items():
            self._data[name][: len(flat)] = flat
        self._sums[:] = self._sums_of(np.arange(len(self)))
        self._marks[:] = 1
        self._checked[:] = True

    def read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Give the fields of these rows, stacked, shorter rows padded on the right.

        Raises:
            DataError: a row is not what was written.
        """
        chosen = np.asarray(rows, np.int64)
        self.check(chosen)
        return {field.name: self._stack(field, chosen) for field in self.fields}

    def view(self, row: int) -> list[torch.Tensor]:
        """Give the fields of one row, not copied; not to be written to.

        Raises:
            DataError: the row is not what was written.
        """
        self.check(np.array([row]))
        length, found = int(self.lengths[row]), []
        for field in self.fields:
            start, stop = self._starts[field.name][row : row + 2]
            value = self._data[field.name][start:stop]
            if field.channels_last:
                channels, *places = field.shape
                found.append(value.view(*places, channels).permute(2, 0, 1))
            else:
                found.append(value.view(field.shape_of(length)))
        return found

    def flat(self, name: str) -> tuple[torch.Tensor, np.ndarray]:
        """Give a field of all rows, flat and unchecked, and where each row starts, int [N + 1]."""
        return self._data[name], self._starts[name]

    def check(self, rows: np.ndarray) -> None:
        """Compare the checksums of rows that have not been read yet.

        Raises:
            DataError: a row is not what was written.
        """
        fresh = np.unique(rows[~self._checked[rows]])
        if not len(fresh):
            return
        wrong = fresh[(self._marks[fresh] == 0) | (self._sums_of(fresh) != self._sums[fresh])]
        if len(wrong):
            raise DataError(
                f"{self.folder}: row {wrong[0]} is not what was written there; delete this folder, and it is "
                "computed again"
            )
        self._checked[fresh] = True

    def _stack(self, field: Field, rows: np.ndarray) -> torch.Tensor:
        import torch

        data, starts = self._data[field.name], self._starts[field.name]
        if field.length_axis is None:
            found = data.view(len(self), int(np.prod(field.shape)))[torch.from_numpy(rows)]
            if field.channels_last:
                channels, *places = field.shape
                return found.view(len(rows), *places, channels).permute(0, 3, 1, 2)
            return found.view(len(rows), *field.shape)
        longest = int(self.lengths[rows].max())
        stacked = torch.full((len(rows), *field.shape_of(longest)), field.fill, dtype=field.dtype)
        for place, row in enumerate(rows.tolist()):
            own = field.shape_of(int(self.lengths[row]))
            value = data[starts[row] : starts[row + 1]].view(own)
            stacked[place].narrow(field.length_axis, 0, own[field.length_axis]).copy_(value)
        return stacked

    def _sums_of(self, rows: np.ndarray) -> np.ndarray:
        """Compute the checksum of each row over all of its fields, uint32."""
        sums = [0] * len(rows)
        for data, starts in self._bytes:
            ends = zip(starts[rows].tolist(), starts[rows + 1].tolist(), strict=True)
            sums = [zlib.crc32(data[a:b], before) for before, (a, b) in zip(sums, ends, strict=True)]
        return np.array(sums, np.uint32)


def bytes_of(fields: Sequence[Field], lengths: np.ndarray) -> int:
    """Count the bytes that rows of these lengths take."""
    return int(sum(int(field.sizes(lengths).sum()) * field.dtype.itemsize for field in fields))


def _equal(field: Field, one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    return one.dtype == other.dtype and torch.equal(one, other)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _allocated(path: Path, size: int) -> Path:
    """Make a file of this size whose blocks are really there: a full disk must not kill a later write."""
    if not path.is_file() or path.stat().st_size < size:
        with path.open("ab") as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            else:
                file.truncate(max(1, size))
    return path


def _mapped(path: Path, count: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    _allocated(path, count * dtype.itemsize)
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype)
