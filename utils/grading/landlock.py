"""Landlock: a process gives up the files, sockets and signals that it does not need. Linux 5.13 or newer, no privilege.

Standard library only, through ``ctypes``: the supervisor of a job loads it before the student's code is started.
Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
READ = EXECUTE | READ_FILE | READ_DIR
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # ABI 5: and ioctl of devices
_NET_RIGHTS = 3  # bind and connect of TCP, ABI 4
_SCOPES = 3  # abstract UNIX sockets and signals, ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Version of Landlock that the kernel offers; 0 where it offers none."""
    try:
        found = _libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except (OSError, AttributeError):
        return 0
    return max(found, 0)


def signals_are_scoped() -> bool:
    """Whether a confined process can signal only processes that are confined with it."""
    return abi() >= 6


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """From now on, this process and its children read and execute below ``readable`` and write ``writable`` files only.

    ``OSError`` where the kernel refuses: the caller must not go on. Paths that do not exist are left out.
    """
    version = abi()
    if version < 1:
        raise OSError("this kernel has no Landlock")
    rights = _Ruleset(_FILE_RIGHTS.get(version, (1 << 16) - 1), _NET_RIGHTS * (version >= 4), _SCOPES * (version >= 6))
    size = 8 * (1 + (version >= 4) + (version >= 6))
    libc = _libc()
    ruleset = _checked(libc.syscall(_CREATE, ctypes.byref(rights), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    for path in readable:
        _allow(libc, ruleset, path, READ)
    for path in writable:
        _allow(libc, ruleset, path, READ_FILE | WRITE_FILE)
    _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= ~READ_DIR
    beneath = _Beneath(rights, parent)
    try:
        _checked(libc.syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(beneath), ctypes.c_uint32(0)))
    finally:
        os.close(parent)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
