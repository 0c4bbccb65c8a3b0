"""What the grammar of every command is put together from, and how it says what is wrong."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where the help is, instead of printing half of it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Let each command refuse what it does not know: argparse leaves it to the program, and names its help."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """In words: how argparse shows a list differs from one Python to the next."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(map(str, action.choices))}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")


def add_command(commands: Any, name: str, module: str, function: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(module=module, function=function)
    return command


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document")


def typed(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """argparse shows the message of an ArgumentTypeError, and of nothing else."""

    def parse_or_tell(text: str) -> Value:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_or_tell
