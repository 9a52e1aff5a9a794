"""`make dashboards` writes them to deploy/grafana/dashboards, from where Grafana takes them."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards import drift, models, overview, performance, pipeline, serving

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = [one.BOARD for one in (overview, drift, performance, serving, pipeline, models)]


def texts() -> dict[str, str]:
    """The JSON of every dashboard, by its file's name."""
    return {
        f"{str(board.uid).removeprefix('driftloop-')}.json": json.dumps(board, cls=JSONEncoder, indent=2) + "\n"
        for board in BOARDS
    }


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
