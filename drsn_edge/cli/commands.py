"""The commands by name; each is a module beside this one, imported when somebody wants it.

All of them together take longer to import than what `--help` says about them: one line each.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

# The first sentence of each one's docstring.
COMMANDS = {
    "demo": "Go the whole way once on made-up vibration: train, export, build, verify, report.",
    "train": "Train a network on recordings and score it on the part that it has not seen.",
    "adapt": "Go on training a run on a few recordings of another machine; scores before and after, on both.",
    "export": "Make the graphs, the engine if a builder is at hand, the parity check and the report: one bundle.",
    "build": "Build engines from a bundle, add them to it, and verify those that run here.",
    "verify": "Say in numbers whether each form of the network still decides as PyTorch does.",
    "bench": "Measure latency and throughput of every form that runs here, and say which precision is worth it.",
    "run": "Decide on every window of one or several sensors, with alarms, counters and a state file.",
    "score": "Decide on years of archived recordings in parallel; after a kill the same command goes on.",
    "triton": "Write a model repository for Triton Inference Server: the file unmodified, configuration, labels.",
    "inspect": "Say what a file or folder is: precisions, plan, engines, contract, hashes.",
    "study": "Train networks over noises, folds and seeds, and say how surely one is better than another.",
    "doctor": "Say what this machine has, what is missing, and how to get it.",
    "data": "Say what a data set holds and how it would be split, before anything is trained on it.",
    "push": "Copy a bundle to a device over ssh, build and verify it there.",
    "receive": "Check a bundle that was copied here and put it into its place in one step; `push` calls this there.",
}


def load(name: str) -> Any:
    """A command, ready to be parsed."""
    from drsn_edge.cli.ui import Command

    module = importlib.import_module(f"drsn_edge.cli.{name}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name=name, cls=Command, epilog=module.EPILOG)(module.command)
    return typer.main.get_command(app)


class Commands(Mapping[str, Any]):
    """All of them; one is loaded when it is taken out."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Group(TyperGroup):
    """What `drsn-edge` alone is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Commands()  # type: ignore[assignment]  # nobody adds to them

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer has it
        """The list of them, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
