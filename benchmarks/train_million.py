"""A million labelled rows and the shipped contract: memory, time beside scikit-learn alone, and the artifact's size.

Ours is a whole challenge: dividing the rows, fitting, export and its check, scores out of fold, gate, segments, card
and profile. The peer fits the same estimator to the same rows and has scikit-learn make scores out of fold, with as
many folds. Both run on one core, each in a process of its own, and are compared by the processor time that they take:
it is their time on a machine where nothing else runs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import ROOT, Figure, alternate, conditions, record, say
from benchmarks.support.million import SECONDS_BETWEEN_WORDS, write_rows

ROWS, ROUNDS = 1_000_000, 1
MOST_GIGABYTES, MOST_RATIO, MOST_MEGABYTES = 3.0, 1.2, 200.0


def main() -> None:
    """Make the rows, train by turns, record."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.npz"
        say(f"drawing {rows:,} rows")
        write_rows(path, rows)
        ours: list[dict[str, float]] = []
        peers: list[dict[str, float]] = []

        def run(which: str, taken: list[dict[str, float]]) -> float:
            say(f"training, {which}")
            taken.append(_train(which, path))
            say(str(taken[-1]))
            return taken[-1]["cpu_s"]

        mine, theirs = alternate(ROUNDS, lambda: run("ours", ours), lambda: run("peer", peers))
    gigabytes = max(one["gigabytes"] for one in ours)
    megabytes, silence = ours[0]["megabytes"], max(one["silence_s"] for one in ours)
    met = conditions(
        "scikit-learn", "skl2onnx", "onnxruntime",
        rows=rows, populations="half baseline-like, half older", patients=rows // 2, rounds=ROUNDS, jobs=1,
        ours_wall_s=ours[0]["wall_s"], peer_wall_s=peers[0]["wall_s"], peer_gb=peers[0]["gigabytes"],
        longest_silence_s=silence, told_every_s=SECONDS_BETWEEN_WORDS,
        accuracy_newest=ours[0]["accuracy"], peer_accuracy_newest=peers[0]["accuracy"],
        peer_does="imputer and forest of the same parameters, fit, cross_val_predict with as many folds, held-out rows",
    )  # fmt: skip
    record(
        Figure(
            figure=f"peak RSS of a training on {rows:,} labelled rows, GB",
            ours=gigabytes,
            target=f"<= {MOST_GIGABYTES:g}",
            met=gigabytes <= MOST_GIGABYTES,
            conditions=met,
        )
    )
    record(
        Figure(
            figure=f"processor time of a training on {rows:,} labelled rows, s, beside scikit-learn alone",
            ours=mine,
            peer=theirs,
            ratio=mine / theirs,
            target=f"ratio <= {MOST_RATIO:g}",
            met=mine / theirs <= MOST_RATIO,
            conditions=met,
        )
    )
    record(
        Figure(
            figure=f"model trained on {rows:,} labelled rows, MB",
            ours=megabytes,
            target=f"<= {MOST_MEGABYTES:g}",
            met=megabytes <= MOST_MEGABYTES,
            conditions=met,
        )
    )


def _train(which: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.support.million", which, str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
