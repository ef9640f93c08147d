"""How commands speak: results on stdout, all else on stderr, errors as one message and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from drsn_edge.errors import DrsnError
from drsn_edge.files import dump_json
from drsn_edge.progress import SILENT, Progress, Step

if TYPE_CHECKING:
    from rich.console import Console


class TerminalProgress:
    """Bars on a terminal's stderr; elsewhere notices only."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

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
        self.progress: Progress = SILENT if quiet else TerminalProgress()

    def show(self, value: dict[str, Any], render: Callable[[Console], None]) -> None:
        """Print a result: its JSON, or what `render` draws."""
        if self.json:
            sys.stdout.write(dump_json(value))
            return
        from rich.console import Console

        console = Console()
        # Piped output must not be folded at 80 columns: `grep` and people's scripts read it.
        render(console if console.is_terminal else Console(width=200, color_system=None))

    def notices(self, notes: Any) -> None:
        """Say what the user should know."""
        for note in notes:
            self.progress.notice(str(note))


@contextlib.contextmanager
def session(*, json: bool = False, quiet: bool = False, debug: bool = False) -> Iterator[Session]:
    """Run a command's body; an error becomes its message and its exit code."""
    try:
        yield Session(json=json, quiet=quiet)
    except DrsnError as error:
        if debug:
            raise
        if json:
            sys.stdout.write(dump_json(error.to_json()))
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing half-written is left", err=True)
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        if json:
            sys.stdout.write(dump_json({"error": type(error).__name__, "exit_code": 1, "what": str(error)}))
        typer.echo(
            f"error: unexpected: {type(error).__name__}: {error}\n  to do:    run again with --debug and report it",
            err=True,
        )
        raise typer.Exit(1) from None
