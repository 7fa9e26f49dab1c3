"""Say in a sentence what an error that nobody foresaw means, and what to do about it.

A full disk is reported in many ways: as an OSError, as an error of a library in Rust, such as safetensors,
that only quotes it, or as the cause of another error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Numbers of the operating system's errors that mean: there is no room for what is to be written.
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
# What a person can do about an error of the operating system.
_ADVICE = {
    errno.EACCES: "choose a folder that you may write to (output_dir, HF_FT_CACHE, -o), or change its rights",
    errno.EROFS: "this file system can only be read: choose another folder (output_dir, HF_FT_CACHE, or -o)",
    errno.ENOTDIR: "a file lies where a folder is expected: rename or remove it, or choose another folder",
    errno.EEXIST: "a file lies where a folder is expected: rename or remove it, or choose another folder",
    errno.EISDIR: "a folder lies where a file is expected: rename or remove it, or choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter output_dir, name or -o",
    errno.EMFILE: "too many files are open: raise the limit (`ulimit -n`)",
    errno.EIO: "the disk does not work: look at it before you trust what it holds",
    errno.ESTALE: "the network disk was lost: mount it again, and run the same command again",
}
_ADVICE[errno.EPERM] = _ADVICE[errno.EACCES]
# Advice on what to free: what hf_ft can do without, or can compute again.
_FREE = (
    "Free some space there, such as `checkpoints` of finished runs, or the caches in ~/.cache/hf_ft "
    "($HF_FT_CACHE), which are computed again where they are needed. Then run the same command again: a run "
    "goes on from its newest checkpoint"
)


def explain(error: BaseException) -> str:
    """Say what broke and, where it is known, what to do.

    Args:
        error: any error but an HfFtError, which explains itself.
    """
    text, name = first_line(error), type(error).__name__
    said = f"{name}: {text}" if text else name
    full = full_disk(error)
    if full is not None:
        return _explain_full(full)
    if isinstance(error, MemoryError) or re.search(r"(allocate|out of) memory", text):
        return (
            f"There is not enough memory ({said}). Lower train.global_batch_size, "
            "train.per_device_train_batch_size or train.per_device_eval_batch_size, or end other programs."
        )
    if isinstance(error, OSError) and error.errno in _ADVICE and error.filename is not None:
        return f"{error.filename}: {error.strerror}; {_ADVICE[error.errno]}."
    return said


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty; libraries add pages of advice below it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def full_disk(error: BaseException) -> OSError | None:
    """Return the error of the operating system that says that a disk is full, if that is what broke."""
    seen: BaseException | None = error
    while seen is not None:
        found = as_os_error(seen)
        if found is not None and found.errno in FULL:
            return found
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def as_os_error(error: BaseException) -> OSError | None:
    """Return an error as an OSError; libraries in Rust only quote its number: `... (os error 28)`."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    quoted = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    if quoted is None:
        return None
    number = int(quoted[1] or quoted[2])
    return OSError(number, os.strerror(number))


@contextlib.contextmanager
def naming(path: Path, size: int | None = None, *, written_as: Path | None = None) -> Iterator[None]:
    """Name the file in an error of the block that writes it: neither Python nor safetensors does.

    Args:
        path: the file or folder that is written.
        size: about how many bytes it needs; None: not known.
        written_as: the temporary name under which it is written; None: its own.

    Raises:
        OSError: with the file's name, and the size as a note; a library's error is its cause.
    """
    try:
        yield
    except Exception as error:
        found = as_os_error(error)
        if found is None:
            raise
        if found.filename is None or (written_as and str(found.filename).startswith(str(written_as))):
            inside = str(found.filename or "").removeprefix(str(written_as))
            found.filename = f"{path}{inside}"
            if size is not None and found.errno in FULL:
                found.add_note(f"{path.name} needs about {show_bytes(size)}.")
        if found is error:
            raise
        raise found from error


def show_bytes(count: float) -> str:
    """Format a number of bytes: 12 bytes, 3.4 kB, 5.6 MB, 7.8 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _explain_full(error: OSError) -> str:
    where = str(error.filename) if error.filename is not None else None
    if error.errno == errno.EFBIG:
        return (
            f"{where or 'A file'}: it would be larger than a file may be; raise the limit (`ulimit -f`), "
            "or choose a folder on another file system."
        )
    if error.errno == errno.ENOSPC:
        said = f"The disk is full: {where} cannot be written" if where else "A disk is full"
    else:
        said = f"Your quota is used up: {where} cannot be written" if where else "A quota is used up"
    return f"{said}{_room_at(where)}. {_FREE}."


def _room_at(where: str | None) -> str:
    """Say how much of the disk of a file is free."""
    places = [Path(where).absolute(), *Path(where).absolute().parents] if where else []
    folder = next((path for path in places if path.is_dir()), None)
    if folder is None:
        return ""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Windows
        about = os.statvfs(folder)
        free, whole = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
        files = ", and no file can be added (no inodes)" if about.f_files and not about.f_ffree else ""
        return f" ({show_bytes(free)} of {show_bytes(whole)} are free at {_mount_of(folder)}{files})"
    return ""


def _mount_of(folder: Path) -> Path:
    """Return the folder where the file system of a folder begins."""
    for path in (folder, *folder.parents):
        if os.path.ismount(path):
            return path
    return folder
