"""Row store: the tensors of every row in memory-mapped files, written row by row, with a checksum per row.

Decoded pictures, tokens and activations are stored this way. `store.json` in the folder describes the
fields, so a store can be opened without further information. `RowStore.agrees` computes a few rows again to
check that the stored values are still right.
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

from hf_ft.causes import naming
from hf_ft.errors import DataError
from hf_ft.storage.atomic import read_json, write_json

if TYPE_CHECKING:
    import torch

_DESCRIPTION, _LENGTHS = "store.json", "lengths.bin"
# Number of rows that `RowStore.agrees` computes again.
CHECKED_ROWS = 4


@dataclass(frozen=True)
class Field:
    """The description of one tensor that is stored for every row.

    Args:
        name: name of the field; its file is `<name>.bin`.
        shape: shape of the tensor of one row. On the axis `length_axis`, the row's own length is added to
            the size given here.
        dtype: type of the numbers.
        length_axis: the axis whose size depends on the row, or None if all rows have the same shape.
        fill: value that pads shorter rows on the right when rows are stacked.
        channels_last: whether a [C, H, W] tensor is stored as [H, W, C], the memory layout that the network
            computes in.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    length_axis: int | None = None
    fill: float = 0.0
    channels_last: bool = False

    def sizes(self, lengths: np.ndarray) -> np.ndarray:
        """Return how many numbers each row has, int [rows].

        Args:
            lengths: length of each row, int [rows].
        """
        if self.length_axis is None:
            return np.full(len(lengths), int(np.prod(self.shape)))
        others = [size for axis, size in enumerate(self.shape) if axis != self.length_axis]
        return (lengths + self.shape[self.length_axis]) * int(np.prod(others))

    def shape_of(self, length: int) -> tuple[int, ...]:
        """Return the shape of the tensor of a row of this length."""
        return tuple(
            size + length if axis == self.length_axis else size for axis, size in enumerate(self.shape)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the field as JSON values."""
        return asdict(self) | {"shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Field:
        """Build a field from the result of `to_json`."""
        import torch

        parsed = {"shape": tuple(value["shape"]), "dtype": getattr(torch, value["dtype"])}
        return cls(**{**value, **parsed})


class RowStore:
    """A folder that stores the same fields for N rows.

    Each row has a mark that is set after its data is written, so an interrupted run continues with the first
    row that is not marked. Each row has a checksum, which is compared when the row is first read.

    Args:
        folder: the folder of the store; it is created if it does not exist.
        fields: the tensors of a row.
        lengths: length of each row, int [N]; zeros if rows have no length.

    Raises:
        OSError: the disk is full.
    """

    def __init__(self, folder: Path, fields: Sequence[Field], lengths: np.ndarray):
        import torch

        self.folder, self.fields, self.lengths = folder, list(fields), np.asarray(lengths, np.int64)
        if read_json(folder / _DESCRIPTION) != self._description:
            folder.mkdir(parents=True, exist_ok=True)
            # Not `tofile`: its error on a full disk has neither a number nor a name.
            with naming(folder / _LENGTHS):
                (folder / _LENGTHS).write_bytes(self.lengths.tobytes())
            write_json(folder / _DESCRIPTION, self._description)
        rows = len(self.lengths)
        self._starts, self._data = dict[str, np.ndarray](), dict[str, torch.Tensor]()
        self._bytes = list[tuple[memoryview, np.ndarray]]()
        for field in self.fields:
            starts = np.concatenate([[0], np.cumsum(field.sizes(self.lengths))])
            data = _map_file(folder / f"{field.name}.bin", int(starts[-1]), field.dtype)
            self._starts[field.name], self._data[field.name] = starts, data
            self._bytes.append((data.view(torch.uint8).numpy().data, starts * field.dtype.itemsize))
        marks = _allocate_file(folder / "filled.bin", rows)
        self._marks = np.memmap(marks, np.uint8, "r+", shape=(rows,))
        checksums = _allocate_file(folder / "checksums.bin", 4 * rows)
        self._checksums = np.memmap(checksums, np.uint32, "r+", shape=(rows,))
        self._is_checked = np.zeros(rows, bool)

    @classmethod
    def open(cls, folder: Path) -> RowStore | None:
        """Open the store in a folder; return None if there is none or its description is damaged."""
        try:
            found = read_json(folder / _DESCRIPTION, dict) or {}
            fields = [Field.from_json(field) for field in found["fields"]]
            lengths = np.fromfile(folder / _LENGTHS, np.int64)
            is_intact = (len(lengths), zlib.crc32(lengths.data)) == (found["rows"], found["lengths"])
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return None
        return cls(folder, fields, lengths) if is_intact else None

    @property
    def _description(self) -> dict[str, Any]:
        fields = [field.to_json() for field in self.fields]
        return {"fields": fields, "rows": len(self.lengths), "lengths": zlib.crc32(self.lengths.data)}

    def __len__(self) -> int:
        return len(self.lengths)

    def __contains__(self, row: int) -> bool:
        return bool(self._marks[row])

    def __reduce__(self) -> Any:
        # A worker process that is spawned and not forked opens the files again.
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
        """Compute a few of the filled rows again and tell whether they are equal to the stored ones.

        The name of a store is a hash of everything that its values are known to depend on. This check finds
        the rest: a changed class of the user's own code, or a damaged disk.

        Args:
            compute: returns the tensors of the rows at these positions, one list per row, without padding;
                None for a row that does not fit the fields.
            close: tells whether a computed and a stored tensor of a field are equal; default: bit for bit.
        """
        chosen = self.filled[:: max(1, len(self.filled) // CHECKED_ROWS)][:CHECKED_ROWS]
        same = close or _is_equal
        try:
            for row, values in zip(chosen.tolist(), compute(chosen), strict=True):
                if values is None:
                    return False
                stored = self.view(row)
                if not all(map(same, self.fields, values, stored)):
                    return False
        except (DataError, RuntimeError):  # a damaged row, or tensors of another shape
            return False
        return True

    def unmark_damaged(self) -> None:
        """Compare the checksum of every filled row; mark damaged rows as not filled."""
        filled = self.filled
        damaged = filled[self._compute_checksums(filled) != self._checksums[filled]]
        self._marks[damaged] = 0

    def write(self, row: int, values: Sequence[torch.Tensor]) -> None:
        """Write one row: one tensor for each field, without padding."""
        for field, value in zip(self.fields, values, strict=True):
            start, stop = self._starts[field.name][row : row + 2]
            stored = value.permute(1, 2, 0) if field.channels_last else value
            self._data[field.name][start:stop] = stored.reshape(-1)
        self._checksums[row] = self._compute_checksums(np.array([row]))[0]
        self._marks[row] = 1
        self._is_checked[row] = True

    def write_all(self, values: Mapping[str, torch.Tensor]) -> None:
        """Write all rows at once.

        Args:
            values: field name -> the numbers of all rows, one row after the other, as a 1-d tensor.
        """
        for name, flat in values.items():
            self._data[name][: len(flat)] = flat
        self._checksums[:] = self._compute_checksums(np.arange(len(self)))
        self._marks[:] = 1
        self._is_checked[:] = True

    def read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return field name -> tensor of these rows, stacked; shorter rows are padded on the right.

        Raises:
            DataError: a row is not filled, or its checksum is wrong.
        """
        chosen = np.asarray(rows, np.int64)
        self.check(chosen)
        return {field.name: self._stack(field, chosen) for field in self.fields}

    def view(self, row: int) -> list[torch.Tensor]:
        """Return the tensors of one row as views of the files; do not write to them.

        Raises:
            DataError: the row is not filled, or its checksum is wrong.
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
        """Return the 1-d tensor of a field of all rows, unchecked, and the start of each row, int [N + 1]."""
        return self._data[name], self._starts[name]

    def check(self, rows: np.ndarray) -> None:
        """Compare the checksums of those rows that have not been checked before.

        Raises:
            DataError: a row is not filled, or its checksum is wrong.
        """
        unchecked = np.unique(rows[~self._is_checked[rows]])
        if not len(unchecked):
            return
        differs = self._compute_checksums(unchecked) != self._checksums[unchecked]
        wrong = unchecked[(self._marks[unchecked] == 0) | differs]
        if len(wrong):
            raise DataError(
                f"{self.folder}: row {wrong[0]} of this cache is damaged: its checksum is not the one that "
                "was stored; delete this folder, and the next run computes it again"
            )
        self._is_checked[unchecked] = True

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

    def _compute_checksums(self, rows: np.ndarray) -> np.ndarray:
        """Compute the checksum of each row over all of its fields, uint32."""
        sums = [0] * len(rows)
        for data, starts in self._bytes:
            ends = zip(starts[rows].tolist(), starts[rows + 1].tolist(), strict=True)
            sums = [zlib.crc32(data[a:b], before) for before, (a, b) in zip(sums, ends, strict=True)]
        return np.array(sums, np.uint32)


def bytes_of(fields: Sequence[Field], lengths: np.ndarray) -> int:
    """Return how many bytes rows of these lengths take in a store.

    Args:
        fields: the tensors of a row.
        lengths: length of each row, int [rows].
    """
    return int(sum(int(field.sizes(lengths).sum()) * field.dtype.itemsize for field in fields))


def _is_equal(field: Field, one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    return one.dtype == other.dtype and torch.equal(one, other)


def _allocate_file(path: Path, size: int) -> Path:
    """Create a file of this size and reserve its disk blocks: a later write must not meet a full disk."""
    if not path.is_file() or path.stat().st_size < size:
        with naming(path, size), path.open("ab") as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            else:
                file.truncate(max(1, size))
    return path


def _map_file(path: Path, count: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    _allocate_file(path, count * dtype.itemsize)
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype)
