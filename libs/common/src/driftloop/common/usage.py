"""What a service's command says of itself."""

import sys
from collections.abc import Iterator

import msgspec

from driftloop.common.settings import is_group, variable


def answer_help(program: str, purpose: str, settings: type[msgspec.Struct]) -> None:
    """If the command line asks for help, print every setting with its default and exit."""
    if not {"-h", "--help"} & set(sys.argv[1:]):
        return
    lines = [f"usage: {program}", "", purpose, "", "Settings come from the environment:", *_lines(settings)]
    lines.append("Each NAME may instead be given as NAME_FILE, the path of a file that holds the value.")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0)


def _lines(settings: type[msgspec.Struct]) -> Iterator[str]:
    for field in msgspec.structs.fields(settings):
        if is_group(field.type):
            yield from _lines(field.type)
        else:
            default = "required" if field.required else f"default {field.default!r}"
            yield f"  {variable(field.name):<40} {default}"
