"""Options of a command line from frozen dataclasses; every complaint is one line."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import tyro

from daps.suggest import did_you_mean


def parse(kind: type, arguments: Sequence[str], program: str, default: Any = None) -> Any:
    """Options by tyro, whose complaints, boxes of several lines, become one ValueError line."""
    keywords: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options, unknown = tyro.cli(kind, prog=program, args=list(arguments), return_unknown_args=True, **keywords)
    except SystemExit as stop:
        if not stop.code:
            raise
        message = _unboxed(complaint.getvalue())
        ours = re.match(r"Error parsing \w+: (\w+[.:].*)", message)  # our own errors name option and remedy themselves
        raise ValueError(ours[1] if ours else f"{message}; see {program} --help") from None
    if unknown:
        near = did_you_mean(unknown[0].split("=")[0], _flags(kind, default))
        raise ValueError(f"no option {unknown[0]!r}{near}; see {program} --help")
    return options


def _unboxed(box: str) -> str:
    """The message inside a box drawn by tyro, up to its first rule."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    rule = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    return " ".join(line for line in lines[:rule] if line)


def _flags(kind: type, default: Any) -> list[str]:
    """Every option of a command, for suggestions."""
    flags = []
    for field in dataclasses.fields(kind):
        group = getattr(default, field.name, None)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(group):
            flags += [f"--{name}.{inner.name.replace('_', '-')}" for inner in dataclasses.fields(group)]
        else:
            flags.append(f"--{name}")
    return flags
