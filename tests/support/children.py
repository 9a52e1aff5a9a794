"""The processes that a test's own process has started."""

import psutil


def children(word: str) -> set[int]:
    """Those that run and in whose command line a word stands."""
    return {one.pid for one in psutil.Process().children() if word in _words(one)}


def _words(process: psutil.Process) -> list[str]:
    """The command line of a process, which may have ended since it was found."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
