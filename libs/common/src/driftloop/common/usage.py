"""What a service's command says of itself."""

import sys

import msgspec

from driftloop.common.settings import single_settings, variable


def answer_help(program: str, purpose: str, settings: type[msgspec.Struct]) -> None:
    """If the command line asks for help, print every setting with its default and exit."""
    if not {"-h", "--help"} & set(sys.argv[1:]):
        return
    lines = [
        f"usage: {program}",
        "",
        purpose,
        "",
        "Settings come from the environment:",
        *map(_line, single_settings(settings)),
    ]
    lines.append("Each NAME may instead be given as NAME_FILE, the path of a file that holds the value.")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0)


def _line(field: msgspec.structs.FieldInfo) -> str:
    default = "required" if field.required else f"default {field.default!r}"
    return f"  {variable(field.name):<40} {default}"
