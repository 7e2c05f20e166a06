"""How a folder or a file takes its name: all at once, never over something that was not to be replaced, and for good.

claim(fresh, place)      fresh becomes place, if nothing is there
swap(fresh, place)       the two change places; what was there lies under the fresh name then
sync, sync_name          what was written, and the name it has, survive a power cut
locked(path)             nobody else does the same at the same time, on systems that have flock
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["claim", "is_abandoned", "lock", "locked", "swap", "sync", "sync_name"]

AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2
"""flags of renameat2: https://man7.org/linux/man-pages/man2/rename.2.html"""
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EPERM)
"""what it says where the kernel, the file system or a sandbox does not have it"""


def claim(fresh: Path, place: Path) -> None:
    """Give a folder its name. Raises FileExistsError when something has it, whatever it is."""
    if _renamed(fresh, place, NOREPLACE):
        return
    if os.name == "nt":  # its rename never replaces
        fresh.rename(place)
        return
    place.mkdir()  # fails when anything is there; and a rename over a folder works only while that is empty
    try:
        fresh.rename(place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            place.rmdir()
        if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from None
        raise


def swap(fresh: Path, place: Path) -> None:
    """Exchange two folders: at once where the system can, else with the old one aside, under `fresh` with .old."""
    if _renamed(fresh, place, EXCHANGE):
        return
    old = fresh.with_name(f"{fresh.name}.old")
    place.rename(old)
    try:
        claim(fresh, place)
    except BaseException:
        if not os.path.lexists(place):
            old.rename(place)
        raise
    old.rename(fresh)


def sync(path: Path) -> None:
    """Write a file, or a folder with all that is below it, through to the disk. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            sync(inner)
    _fsync(path)


def sync_name(path: Path) -> None:
    """Write the name of a file or folder through to the disk. Raises OSError."""
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    if os.name == "nt":  # it knows no such thing of folders, nor of files open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(descriptor)


def lock(folder: Path) -> int | None:
    """Take a folder until the process ends or the descriptor that is returned is closed; waits for who has it.

    None on systems without flock. Raises OSError when the folder is not there.
    """
    return _flock(folder, wait=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """`lock` for a block."""
    descriptor = lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_abandoned(folder: Path) -> bool:
    """Whether nobody has a folder that its maker took by `lock`: then that process is gone."""
    try:
        descriptor = _flock(folder, wait=False)
    except OSError:
        return False
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _flock(folder: Path, wait: bool) -> int | None:
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.EBADF, errno.ENOTSUP):
            return None  # a network's file system
        raise
    return descriptor


def _renamed(fresh: Path, place: Path, flag: int) -> bool:
    """Whether renameat2 did it; False where there is none. Raises OSError when it could not be done."""
    rename = _renameat2()
    if rename is None or not rename(AT_FDCWD, os.fsencode(fresh), AT_FDCWD, os.fsencode(place), flag):
        return rename is not None
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(place))


@cache
def _renameat2() -> Any:
    """The function of glibc and musl, None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function
