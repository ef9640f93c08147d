"""Options that `run` and `score` share: which network decides, how samples become windows, and windows a state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from drsn_edge.errors import UsageError

if TYPE_CHECKING:
    from drsn_edge.stream.smoothing import SmoothingOptions

Runner = Annotated[str, typer.Option("--runner", help="auto, engine or onnxruntime.")]
Precision = Annotated[str | None, typer.Option("--precision", help="fp32, fp16 or int8.")]
AllowUnverified = Annotated[
    bool, typer.Option("--allow-unverified", help="Take an engine that never passed a parity check.")
]
Hop = Annotated[int | None, typer.Option("--hop", min=1, help="Samples from window to window; the contract's.")]
Overlap = Annotated[
    float | None,
    typer.Option("--overlap", min=0.0, max=0.999, help="Instead of --hop: share that windows have in common."),
]
Votes = Annotated[str, typer.Option("--votes", metavar="K/N", help="Windows that must agree.")]
Release = Annotated[int | None, typer.Option("--release", min=1, help="Of them, those that keep a state; K - 1.")]
MinConfidence = Annotated[float, typer.Option("--min-confidence", help="Below it a window says unknown.")]
Normal = Annotated[list[str] | None, typer.Option("--normal", metavar="LABEL", help="A label that is no alarm.")]
DriftWindows = Annotated[int, typer.Option("--drift-windows", min=1, help="Windows that telemetry is averaged over.")]


def hop_of(hop: int | None, overlap: float | None, window: int) -> int | None:
    """The hop of either option.

    Raises:
        UsageError: Both are given.
    """
    if hop is not None and overlap is not None:
        raise UsageError("--hop and --overlap say the same", got="both", expected="one of them")
    return hop if overlap is None else max(1, round(window * (1 - overlap)))


def smoothing_of(
    votes: str, release: int | None, min_confidence: float, normal: Iterable[str] | None
) -> SmoothingOptions:
    """How windows become a state.

    Raises:
        UsageError: Votes that are not understood, or options that do not fit together.
    """
    from drsn_edge.stream.smoothing import SmoothingOptions

    needed, sign, of = votes.partition("/")
    if not (sign and needed.isdecimal() and of.isdecimal()):
        raise UsageError("--votes is not understood", got=votes, expected="K/N, for example 3/5")
    return SmoothingOptions(
        votes=int(needed),
        of=int(of),
        release=max(1, int(needed) - 1) if release is None else release,
        min_confidence=min_confidence,
        normal=tuple(normal or ()),
    )
