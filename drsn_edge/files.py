"""Files that are whole or absent: hashes, canonical JSON, replacement by rename."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def sha256_bytes(data: bytes | memoryview) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays become Python's; non-finite numbers become null, so that every reader can parse it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def dump_json(value: Any) -> str:
    """JSON with sorted keys and a final newline: equal values give equal bytes. No NaN, no Infinity."""
    return json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path, *, what: str = "the file") -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: Absent or unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{what} is not there", got=path, expected="a JSON file") from None
    except OSError as error:  # a folder, or no permission
        raise InputError(f"{what} cannot be read", got=f"{path}: {error.strerror}", expected="a JSON file") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InputError(f"{what} is not JSON", got=f"{path}: {error}", expected="a JSON object") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} has the wrong shape", got=f"{path}: {type(value).__name__}", expected="a JSON object")
    return value


def read_settings(path: Path, *, what: str = "the file") -> dict[str, Any]:
    """What people write by hand: a TOML file, or JSON where the name ends in `.json`.

    Raises:
        InputError: Absent or unreadable, or neither.
    """
    if path.suffix == ".json":
        return read_json(path, what=what)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} is not there", got=path, expected="a TOML or JSON file") from None
    except OSError as error:
        raise InputError(f"{what} cannot be read", got=f"{path}: {error.strerror}", expected="a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is not TOML", got=f"{path}: {error}", expected="a TOML file") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by rename: a reader or a killed process sees the old bytes or the new, never a part.

    What processes that were killed have left of earlier attempts at the same file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    handle, work = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            work.chmod(0o644)
            if os.name == "posix":  # while the lock is held; Windows has neither it nor the rename of an open file
                work.replace(path)
        if os.name != "posix":
            work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`dump_json` into a file, by rename."""
    write_bytes(path, dump_json(value).encode())


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output that exists, and one that nobody can mean.

    Raises:
        UsageError: `path` exists and `force` is false; `path` is the current folder or holds it, `force` or not.
    """
    # Replacing removes all that is there: `--out . --force`, or a home folder by a slip, would take the sources along.
    if path.is_dir() and Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(
            "the output is the current folder, or a folder around it", got=path, expected="a new name for the output"
        )
    if os.path.lexists(path) and not force:
        raise UsageError("the output exists already", got=path, expected="a new name", hint="add --force to replace it")


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when the block has ended well.

    Yields a temporary folder beside `path`. On an exception it is removed and what was at `path` stays.

    Raises:
        UsageError: `path` exists and `force` is false.
    """
    check_output(path, force=force)
    with work_folder(path) as work:
        yield work
        check_output(path, force=force)
        replace_folder(work, path)


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, gone at the end unless it was moved away.

    A process that is killed leaves its own behind; the next that works on the same path removes it. Which of them are
    still worked in is known by the lock on a file of nearly the same name, which ends with its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    handle, mark = _temporary(path)
    work = mark.with_name(f"{mark.name}.d")
    try:
        work.mkdir(mode=0o755)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        mark.unlink(missing_ok=True)
        os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new hidden file beside `path`, its lock held; made again should somebody's clearing have come between."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        if _lock(handle) is not False and os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Take the lock; false where somebody has it, None where there are none: Windows, some network file systems."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _clear(path: Path) -> None:
    """Remove temporaries of `path` that no process holds; where locks tell nothing they stay."""
    nested = r"(\.[a-z0-9_]{8}\.tmp\.d)*"  # a bundle that was added to while it was still being made
    mine = re.compile(rf"\.+{re.escape(path.name)}{nested}\.[a-z0-9_]{{8}}\.tmp")
    with os.scandir(path.parent) as entries:
        found = [Path(entry.path) for entry in entries if mine.fullmatch(entry.name) and entry.is_file()]
    for left in found:
        try:
            handle = os.open(left, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:  # gone by now, or somebody else's: not ours to remove
            continue
        try:
            if _lock(handle) is True:
                shutil.rmtree(left.with_name(f"{left.name}.d"), ignore_errors=True)
                left.unlink(missing_ok=True)
        finally:
            os.close(handle)


def replace_folder(new: Path, path: Path) -> None:
    """Move a finished folder to `path`; at every moment there is the old one or the new one under that name.

    Where the system has no atomic exchange the name is absent between two renames; then the old folder lies beside it.
    """
    if not os.path.lexists(path):  # a link to nowhere is there, too
        new.rename(path)
        return
    if _exchange(new, path):
        _remove(new)
        return
    # Without an atomic exchange (not Linux, or a file system that lacks it) the old steps aside for one rename.
    aside = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically with renameat2(2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # TypeError: Windows, which wants a name
        return False
    at_fdcwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h
    return bool(renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
