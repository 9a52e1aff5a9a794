"""A predictor's process with a store whose reads hang while a file is there, as a network file system's do."""

import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from driftloop.common import registry
from driftloop.common.registry.files import read_file
from driftloop.predictor import main


def read(uri: str, *rest: Any) -> bytes:
    """Read, once nothing hangs any more."""
    path = Path(uri.removeprefix("hanging:/"))
    while (path / "hangs").exists():
        time.sleep(0.05)
    return read_file(f"file://{path}", *rest)


if __name__ == "__main__":
    with patch.dict(registry.STORES, {"hanging": registry.STORES["file"]._replace(read=read)}):
        main.main()
