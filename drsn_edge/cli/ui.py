"""How commands speak: results on stdout, all else on stderr, errors as one message and an exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from drsn_edge.errors import DrsnError, PeerFailed, UsageError
from drsn_edge.files import dump_json
from drsn_edge.progress import SILENT, Progress, Step, speaks

if TYPE_CHECKING:
    from rich.console import Console

# Nothing that is piped is folded: `grep` and people's scripts read it.
_PIPED_WIDTH = 10_000
# typer has its own copy of click or the package, by its version: the base of every parser's complaint, in both.
_ParserError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException" and issubclass(base, Exception)
)


class TerminalProgress:
    """Bars on a terminal's stderr; elsewhere notices only."""

    def __init__(self) -> None:
        self._console = _console(stderr=True)

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        """A bar that is gone when the step has ended."""
        if not self._console.is_terminal:
            with SILENT.step(title, total) as silent:
                yield silent
            return
        from rich import progress

        with progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        ) as bars:
            task = bars.add_task(title, total=total, note="")

            class Bar:
                def advance(self, amount: int = 1, note: str | None = None) -> None:
                    bars.update(task, advance=amount)
                    if note is not None:
                        bars.update(task, note=note)

            yield Bar()

    def notice(self, text: str) -> None:
        """A line on stderr."""
        self._console.print(f"note: {text}", style="dim", highlight=False, markup=False)


class Session:
    """One command's run: where progress goes and how its result is shown."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json = json
        self.shown = False
        self.progress: Progress = TerminalProgress() if speaks() and not quiet else SILENT

    def show(self, value: dict[str, Any], render: Callable[[Console], None]) -> None:
        """Print a result: its JSON, or what `render` draws."""
        if not speaks():
            return
        if self.json:
            sys.stdout.write(dump_json(value))
        else:
            render(_console())
        self.shown = True

    def fail(self, error: dict[str, Any], message: str) -> None:
        """Say what went wrong: on stderr, and as the one JSON document of stdout unless a result went there before."""
        if self.json and not self.shown:
            sys.stdout.write(dump_json(error))
        typer.echo(f"error: {message}", err=True)

    def notices(self, notes: Any) -> None:
        """Say what the user should know."""
        for note in notes:
            self.progress.notice(str(note))


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PIPED_WIDTH, color_system=None)


@contextlib.contextmanager
def session(*, json: bool = False, quiet: bool = False, debug: bool = False) -> Iterator[Session]:
    """Run a command's body; an error becomes its message and its exit code."""
    ui = Session(json=json, quiet=quiet)
    try:
        with _ended_like_interrupted():
            yield ui
    except (typer.Exit, typer.Abort, _ParserError):
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing half-written is left", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        if isinstance(error, PeerFailed):  # the process that failed first has said why
            raise typer.Exit(error.exit_code) from None
        if isinstance(error, DrsnError):
            ui.fail(error.to_json(), str(error))
            raise typer.Exit(error.exit_code) from None
        ui.fail(*_unexpected(error))
        raise typer.Exit(1) from None


def _unexpected(error: Exception) -> tuple[dict[str, Any], str]:
    """JSON and text of an error that nobody raised on purpose."""
    if isinstance(error, OSError) and error.strerror:
        told = DrsnError(
            "the system refused to read or write a file",
            got=f"{error.filename}: {error.strerror}" if error.filename else error.strerror,
            expected="a file system with room, and permission to write where --out points",
        )
    else:
        told = DrsnError(
            f"unexpected: {type(error).__name__}: {error}", hint="run again with --debug and report what it prints"
        )
    return {**told.to_json(), "error": type(error).__name__}, str(told)


@contextlib.contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM, which CI and service managers send, clears up as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever embeds this has the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Command(TyperCommand):
    """A command whose arguments are parsed under the same rules as it runs: one message, one exit code, `--json`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse; what the parser complains of is JSON as well when JSON was asked for."""
        json, debug = "--json" in args, "--debug" in args
        with session(json=json, debug=debug):
            try:
                return super().make_context(info_name, args, parent, **extra)
            except _ParserError as error:
                if not speaks():  # all processes of a command are given the same arguments
                    raise typer.Exit(UsageError.exit_code) from None
                if json:
                    what = error.format_message()  # type: ignore[attr-defined]
                    sys.stdout.write(dump_json(UsageError(what, hint=f"drsn-edge {info_name} --help").to_json()))
                raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, and the examples as they are written: typer folds an epilog, each version in its own way."""
        examples, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = examples
        if examples:
            formatter.write("\n" + textwrap.dedent(examples).strip("\n") + "\n")
