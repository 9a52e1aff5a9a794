"""`helm test`: every service is ready and, where a key is given, one prediction is answered."""

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path


def ask(url: str, body: str | None = None, key: str = "") -> bool:
    """Whether a URL answers well; says what it answered."""
    headers = {"content-type": "application/json", "x-api-key": key}
    request = urllib.request.Request(url, None if body is None else body.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            said = str(answer.status)
            well = True
    except urllib.error.HTTPError as error:
        said, well = f"{error.code} {error.read(2000).decode(errors='replace')}", False
    except OSError as error:
        said, well = str(error), False
    sys.stdout.write(f"{url}: {said}\n")
    return well


def main() -> int:
    """Ask all, whatever one of them says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ready", nargs="+", help="URLs that say who is ready")
    parser.add_argument("--predict", help="the URL that predicts")
    parser.add_argument("--body", help="what it is asked")
    parser.add_argument("--key-file", type=Path, help="the file of the API key")
    given = parser.parse_args()
    well = [ask(url) for url in given.ready]
    if given.predict:
        well.append(ask(given.predict, given.body, given.key_file.read_text().strip()))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
