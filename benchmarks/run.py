"""Run the benchmarks, all or the named, each in a process of its own, and say which figures were met."""

import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.harness import RESULTS, ROOT, Figure, line


def names() -> list[str]:
    """Every script of this folder but this one, in the order of the alphabet."""
    others = (path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
    return sorted(path.stem for path in others if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"))


def figures() -> list[Figure]:
    """What has been recorded up to now."""
    lines = RESULTS.read_bytes().splitlines() if RESULTS.exists() else []
    return [msgspec.json.decode(text, type=Figure) for text in lines]


def main() -> int:
    """Run the scripts that are named, or all; 1 where one failed or missed a figure."""
    known, wanted = names(), sys.argv[1:]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no benchmark is called {unknown}: there are {known}", file=sys.stderr)
        return 2
    before, failed = len(figures()), []
    for name in wanted or known:
        print(f"{name}", file=sys.stderr, flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode:
            failed.append(name)
    new = figures()[before:]
    missed = [figure for figure in new if not figure.met]
    print(f"\n{len(new) - len(missed)} of {len(new)} figures met; all are in {RESULTS.relative_to(ROOT)}")
    for figure in missed:
        print(f"  {line(figure)}")
    for name in failed:
        print(f"  {name} failed: run `make bench ONLY={name}` to see why")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
