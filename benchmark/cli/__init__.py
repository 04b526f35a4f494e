"""The command line: arguments, then one call each. The only module that prints or exits.

Exit codes: 0 success; 1 a defect of this program; 2 wrong usage; 3 unknown name; 4 manifest or
weights; 5 data set; 6 missing optional package; 7 broken contract; 8 contradictory outcomes;
9 record; 11 storage; 12 lost worker; 13 memory; 14 download; 130 interrupted.
"""

import sys

import typer

# Importing the commands registers them, in the order in which help lists them.
from benchmark.cli import (  # noqa: F401
    boards,
    campaigning,
    comparing,
    evidence,
    exporting,
    importing,
    submitting,
    weights,
    writing,
)
from benchmark.cli import doctor as _doctor  # noqa: F401
from benchmark.cli.base import app, err
from benchmark.errors import BenchmarkError

# Options of the project, which a user may also write behind the command.
_PROJECT_OPTIONS = ("--root", "--data-root", "--device", "--workers", "--mirror")


def project_options_first(arguments: list[str]) -> list[str]:
    """Returns the arguments with the project's options moved before the command."""
    front, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--download" or argument.startswith(
            tuple(f"{o}=" for o in _PROJECT_OPTIONS)
        ):
            front.append(argument)
        elif argument in _PROJECT_OPTIONS:
            front += [argument, *[value for value in [next(remaining, None)] if value is not None]]
        else:
            rest.append(argument)
    return front + rest


def main() -> None:
    """Runs the command line; every known error becomes one line and its exit code."""
    try:
        code = app(project_options_first(sys.argv[1:]), standalone_mode=False)
        if code == 130:  # typer makes an interruption an answer
            raise KeyboardInterrupt
    except BenchmarkError as error:
        err.print(f"error: {error}", soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to go on", soft_wrap=True)
        sys.exit(130)
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)
