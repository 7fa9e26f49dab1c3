"""Tensors of every row, kept in files: memory-mapped, checked when they are read, filled bit by bit."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from hf_ft.errors import DataError
from hf_ft.storage.atomic import write_json

if TYPE_CHECKING:
    import torch


# File with the lengths of the rows, beside their fields.
LENGTHS = "lengths.json"
# Rows that are made again where kept ones are found.
_CHECKED_ROWS = 4


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


class RowStore:
    """A folder with the fields of N rows.

    A row is filled once its data and then its mark are written, so that what was interrupted goes on where
    it stopped. Every row has a checksum, compared the first time it is read.

    Args:
        folder: made if it is not there.
        fields: what is kept.
        lengths: length of each row, int [N]; zeros where rows have none.

    Raises:
        OSError: the disk has no room.
    """

    def __init__(self, folder: Path, fields: Sequence[Field], lengths: np.ndarray):
        self.folder, self.fields, self.lengths = folder, list(fields), lengths
        folder.mkdir(parents=True, exist_ok=True)
        rows = len(lengths)
        self._starts, self._data = {}, {}
        for field in self.fields:
            ends = np.cumsum(field.sizes(lengths))
            self._starts[field.name] = np.concatenate([[0], ends])
            self._data[field.name] = _mapped(folder / f"{field.name}.bin", int(ends[-1]), field.dtype)
        self._marks = np.memmap(_allocated(folder / "filled.bin", rows), np.uint8, "r+", shape=(rows,))
        self._sums = np.memmap(_allocated(folder / "checksums.bin", 4 * rows), np.uint32, "r+", shape=(rows,))
        self._checked = np.zeros(rows, bool)

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

    @property
    def sample(self) -> np.ndarray:
        """Positions of a few filled rows, by which it is seen whether the store holds what it should."""
        return self.filled[:: max(1, len(self.filled) // _CHECKED_ROWS)][:_CHECKED_ROWS]

    def forget_damaged(self) -> None:
        """Look at every row that is filled, and take those that are not what was written for not filled."""
        damaged = [row for row in self.filled.tolist() if self._sum(row) != self._sums[row]]
        self._marks[damaged] = 0

    def write(self, row: int, values: Sequence[torch.Tensor]) -> None:
        """Fill one row: one tensor for each field, without padding."""
        total = 0
        for field, value in zip(self.fields, values, strict=True):
            start, stop = self._starts[field.name][row : row + 2]
            kept = value.permute(1, 2, 0) if field.channels_last else value
            self._data[field.name][start:stop] = kept.reshape(-1)
            total = zlib.crc32(_bytes(self._data[field.name][start:stop]), total)
        self._sums[row] = total
        self._marks[row] = 1
        self._checked[row] = True

    def read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Give the fields of these rows, stacked, shorter rows padded.

        Raises:
            DataError: a row is not what was written.
        """
        for row in rows:
            if not self._checked[row]:
                self._check(row)
        longest = int(self.lengths[list(rows)].max())
        return {field.name: self._stack(field, rows, longest) for field in self.fields}

    def view(self, row: int) -> list[torch.Tensor]:
        """Give the fields of one row as they lie in the files, not copied; not to be written to.

        Raises:
            DataError: the row is not what was written.
        """
        if not self._checked[row]:
            self._check(row)
        length, found = int(self.lengths[row]), []
        for field in self.fields:
            start, stop = self._starts[field.name][row : row + 2]
            found.append(self._data[field.name][start:stop].view(field.shape_of(length)))
        return found

    def _stack(self, field: Field, rows: Sequence[int], longest: int) -> torch.Tensor:
        import torch

        data, starts = self._data[field.name], self._starts[field.name]
        if field.length_axis is None:
            width = int(np.prod(field.shape))
            found = data.view(len(self), width)[torch.as_tensor(rows)]
            if field.channels_last:
                channels, *places = field.shape
                return found.view(len(rows), *places, channels).permute(0, 3, 1, 2)
            return found.view(len(rows), *field.shape)
        stacked = torch.full((len(rows), *field.shape_of(longest)), field.fill, dtype=field.dtype)
        for place, row in enumerate(rows):
            own = field.shape_of(int(self.lengths[row]))
            value = data[starts[row] : starts[row + 1]].view(own)
            stacked[place].narrow(field.length_axis, 0, own[field.length_axis]).copy_(value)
        return stacked

    def _check(self, row: int) -> None:
        if not self._marks[row] or self._sum(row) != self._sums[row]:
            raise DataError(
                f"{self.folder}: row {row} is not what was written there; delete this folder, and it is "
                "computed again"
            )
        self._checked[row] = True

    def _sum(self, row: int) -> int:
        total = 0
        for field in self.fields:
            start, stop = self._starts[field.name][row : row + 2]
            total = zlib.crc32(_bytes(self._data[field.name][start:stop]), total)
        return total


def bytes_of(fields: Sequence[Field], lengths: np.ndarray) -> int:
    """Count the bytes that rows of these lengths take."""
    return int(sum(int(field.sizes(lengths).sum()) * field.dtype.itemsize for field in fields))


def make_room(
    root: Path, size: int, most: int, own: Collection[Path] = (), *, delete: bool = True
) -> str | None:
    """Delete the stores that were used the longest ago until those of a run fit.

    Args:
        root: folder of stores, one folder each.
        size: bytes of the run's own stores once they are whole.
        most: bytes that all stores may take together.
        own: the run's stores, whole or not; never deleted.
        delete: whether to delete anything; otherwise it is only found out whether there would be room.

    Returns:
        Why there is no room, or None where there is.
    """
    if size > most:
        return f"{size / 1e9:.2g} GB are needed and cache.max_gb is {most / 1e9:g}"
    root.mkdir(parents=True, exist_ok=True)
    needed = max(0, size - sum(size_of(folder) for folder in own if folder.is_dir()))
    others = [folder for folder in root.iterdir() if (folder / "use").is_file() and folder not in own]
    sizes = {folder: size_of(folder) for folder in sorted(others, key=last_use)}
    room = shutil.disk_usage(root).free
    for folder in list(sizes):
        if sum(sizes.values()) + size <= most and needed < 0.9 * room:
            break
        if not delete:
            room += sizes.pop(folder)
            continue
        # A store that is being filled is left alone.
        with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            room += sizes.pop(folder)
    if needed >= 0.9 * room:
        return f"{needed / 1e9:.2f} GB are needed and {room / 1e9:.2f} GB are free on that disk"
    return None


def size_of(folder: Path) -> int:
    """Count the bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def last_use(folder: Path) -> float:
    """Give the moment at which a store was last opened."""
    return (folder / "use").stat().st_mtime


def mark_use(folder: Path, description: dict[str, object]) -> None:
    """Note what a store holds, and that it is used now."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "use", description)


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


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.view(torch.uint8).numpy().data
