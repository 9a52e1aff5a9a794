"""Takes from a process what it does not need to read one file and write another: memory, time, files, network, signals.

Limits are POSIX's (setrlimit); the rest is Landlock's, Linux's sandbox for a process that confines itself
(https://docs.kernel.org/userspace-api/landlock.html). Where the kernel is older it confines less, or nothing.
"""

import ctypes
import os
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

# The version of Landlock that keeps all of this in; the one before leaves signals out.
CONFINES = 6

# include/uapi/linux/landlock.h; the system calls have one number on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIR
# Of a file, not of a folder: execute, write, read, truncate, device control.
_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
# Which rights each version of Landlock knows: all up to this bit.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_SINCE, _BIND_AND_CONNECT = 4, 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_NO_NEW_PRIVILEGES = 38
# capset(2): the header's version, this process; effective, permitted and inheritable, twice 32 of each.
_NO_CAPABILITIES = struct.pack("<Ii", 0x20080522, 0), bytes(24)


def landlock_version() -> int:
    """Which version of Landlock the kernel has, 0 for none."""
    found: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, found)


def limit(memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Bound this process and those that it starts: its data in memory, its time on processors, the files it writes."""
    for kind, most in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def confine(readable: Iterable[Path], writable: Path) -> None:
    """Let this thread, and all that it starts, read what is beneath `readable` and write beneath `writable` only.

    No TCP, no signal to any other process, no program, and nothing that root may do. Nothing takes this back. Raises
    OSError.
    """
    _checked(_libc().capset(*_NO_CAPABILITIES))
    _checked(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    version = landlock_version()
    if version == 0:
        return
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network = _BIND_AND_CONNECT if version >= _NETWORK_SINCE else 0
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= CONFINES else 0
    rules = struct.pack("<QQQ", rights, network, scoped)[: 24 if scoped else 16 if network else 8]
    ruleset = _checked(_libc().syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        # It writes files, and starts no program.
        _allow(ruleset, writable, rights & ~_EXECUTE)
        _checked(_libc().syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("<Qi", rights if path.is_dir() else rights & _OF_FILES, place)
        _checked(_libc().syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(place)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
