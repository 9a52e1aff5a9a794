"""Runs one container for as long as this process lives: what a supervisor starts where there is no local program.

`python -m driftloop.devstack.container FILE` reads a `driftloop.devstack.docker.Container` from FILE, starts it through
testcontainers, and removes it at SIGTERM; its volume stays.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from docker.errors import DockerException, NotFound  # type: ignore[import-untyped]
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from driftloop.devstack.docker import STOP_SECONDS, Container


def main() -> int:
    """Run the container until a signal comes or it ends by itself."""
    spec = Container(**json.loads(Path(sys.argv[1]).read_text()))
    # The supervisor removes what is left behind, and containers that `devstack up` started outlive the command.
    testcontainers_config.ryuk_disabled = True
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        container = _start(spec)
    except DockerException as error:
        sys.stderr.write(f"{spec.image}: {error}\n")
        return 1
    threading.Thread(target=_watch, args=[container], daemon=True).start()
    signal.sigwait(signals)
    wrapped = container.get_wrapped_container()
    try:
        wrapped.stop(timeout=STOP_SECONDS)
        sys.stderr.write(wrapped.logs(tail=50).decode(errors="replace"))
        container.stop(delete_volume=False)
    except NotFound:
        sys.stderr.write(f"{spec.name} was removed by someone else\n")
    return 0


def _start(spec: Container) -> DockerContainer:
    container = DockerContainer(spec.image).with_name(spec.name).with_envs(**spec.environment)
    container.with_volume_mapping(spec.volume, spec.mount, "rw")
    for inside, outside in spec.ports.items():
        # Bound to this machine alone, which `with_bind_ports` cannot say.
        container.ports[inside] = ("127.0.0.1", outside)  # type: ignore[assignment]
    return container.start()


def _watch(container: DockerContainer) -> None:
    container.wait()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
