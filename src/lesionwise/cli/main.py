"""`lesionwise`: one command per question. Exit codes: 0 done; 2 the user's input; 3 some scans left out; 1 our fault;
130 interrupted."""

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from lesionwise import __version__
from lesionwise.errors import InputError
from lesionwise.memory import keep_freed_memory

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "lesionwise.cli.demo",
        "Explain a synthetic patient with the built-in model: no data, no network, no GPU.",
    ),
    "explain": ("lesionwise.cli.explain", "Explain the lesions of one scan."),
    "prepare": ("lesionwise.cli.prepare", "Align, brain-extract and bias-correct the scanner's files of a data set."),
    "study": ("lesionwise.cli.study", "Explain every scan of a BIDS data set, then collect the cohort."),
    "experiment": ("lesionwise.cli.experiment", "Run one of the published experiments on a data set."),
    "benchmark": ("lesionwise.cli.benchmark", "Judge attribution methods where the right map is known."),
    "train": ("lesionwise.cli.train", "Train a network on a BIDS data set."),
    "evaluate": ("lesionwise.cli.evaluate", "Measure how well models segment a data set."),
    "triage": ("lesionwise.cli.triage", "Say which predicted lesions are probably false."),
    "why": ("lesionwise.cli.why", "Say what would have changed the network's mind about each lesion."),
    "report": ("lesionwise.cli.report", "Write the report of an output folder."),
    "figure": ("lesionwise.cli.figure", "Draw one lesion as a publication-ready panel."),
    "serve": ("lesionwise.cli.serve", "Serve an output folder's report on this machine."),
    "phantom": ("lesionwise.cli.phantom", "Write synthetic patients as a BIDS data set."),
    "models": ("lesionwise.cli.models", "List models, or show what one expects."),
}
"""Each command's module (imported only when it is used) and its line in the help. A module offers `app`."""

USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What typer raises for a wrong option: it carries its own copy of click, so the class is looked up, not imported."""


WAITING = frozenset(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
"""Variables that say how idle threads wait. Unless one is set, they sleep: by default they spin, which makes threads whose
cores are shared wait for one another, several times as long as they compute (docs/scale.md). Read when torch is loaded."""


class LazyGroup(TyperGroup):
    """Loads a command's module when the command is used, so that `--version` and the help stay quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]
        with _loading(cmd_name):
            command = get_command(importlib.import_module(module).app)
        command.name = cmd_name
        command.short_help = line
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@contextmanager
def _loading(command: str) -> Iterator[None]:
    """On a terminal, a line that stays for as long as libraries are imported: seconds, before a command can say anything."""
    shown = sys.stderr.isatty()
    if shown:
        typer.echo(f"lesionwise {command}: loading", nl=False, err=True)
    try:
        yield
    finally:
        if shown:
            typer.echo("\r\x1b[K", nl=False, err=True, color=True)


app = typer.Typer(
    cls=LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Show the version and stop.", is_eager=True)) -> None:
    """Explain single lesions of a 3-D segmentation network. Research use only, not a medical device."""
    if version:
        typer.echo(f"lesionwise {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns what happens into an exit code; one sentence on stderr for the user's mistakes."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not WAITING & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"
    keep_freed_memory()
    try:
        result = app(
            args=list(arguments) if arguments is not None else None, standalone_mode=False, prog_name="lesionwise"
        )
        code = result if isinstance(result, int) else 0
    except typer.Exit as stop:  # also what typer makes of an interrupt, with code 130
        code = stop.exit_code
    except USAGE_ERROR as error:
        error.show()
        code = 2
    except InputError as error:
        typer.echo(f"lesionwise: {error}", err=True)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except MemoryError:
        typer.echo(
            "lesionwise: this machine's memory does not suffice; fewer lesions at a time (--lesions) need less.",
            err=True,
        )
        code = 2
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        typer.echo(f"lesionwise: expected to read or write files, but{where}: {error.strerror or error}.", err=True)
        code = 2
    except Exception:
        traceback.print_exc()
        typer.echo("lesionwise: this is a fault of lesionwise, not of your input; the lines above say where.", err=True)
        code = 1
    if code == 130:
        typer.echo(
            "lesionwise: interrupted; what was finished is kept, and the same command goes on from there.", err=True
        )
    if arguments is None:
        sys.exit(code)
    return code
