"""A builder's phases as progress, and the way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from drsn_edge.errors import BuildError
from drsn_edge.progress import Step
from drsn_edge.runtime.trt_log import MessageLog


class Watch:
    """Whether a build is to stop, and why.

    The builder calls into Python from C++, where no exception must travel: what is raised there is kept, stops the
    build, and is raised by `settle` when the builder has come back. Ctrl-C is the case that matters.
    """

    def __init__(self, cancel: Callable[[], bool] | None, log: MessageLog) -> None:
        self._cancel = cancel
        self._log = log
        self._cancelled = False
        self._raised: BaseException | None = None

    def guard(self, act: Callable[[], None]) -> None:
        """Run something that must not raise."""
        try:
            act()
        except BaseException as error:  # noqa: BLE001
            self._raised = self._raised or error

    def stop(self) -> bool:
        """Whether to stop; once yes, always yes."""
        self.guard(self._ask)
        return self._cancelled or self._raised is not None or self._log.interrupted

    def settle(self) -> None:
        """Raise what made the build stop.

        Raises:
            BuildError: `cancel` answered yes.
        """
        if self._raised is not None:
            raise self._raised
        if self._log.interrupted:
            raise KeyboardInterrupt
        if self._cancelled:
            raise BuildError("the build was cancelled", got="a request to stop", expected="a build to its end")

    def _ask(self) -> None:
        if self._cancel is not None and not self._cancelled:
            self._cancelled = bool(self._cancel())


class Share:
    """How much of a build is done, from phases that nest: a phase is one step of the phase that it stands in.

    Phases of one parent may run side by side, on threads of the builder; their names are unique while they run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps done, steps in all
        self._told = 0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[phase] = parent, 0, max(steps, 1)

    def done(self, phase: str) -> None:
        """One more step of a phase."""
        with self._lock:
            if phase in self._phases:
                parent, done, steps = self._phases[phase]
                self._phases[phase] = parent, min(done + 1, steps), steps

    def finish(self, phase: str) -> None:
        """A phase is over; that its parent's step is done is told by the parent."""
        with self._lock:
            self._phases.pop(phase, None)

    def more(self) -> int:
        """Percent that are done and were not told before: never less than nothing, and 100 in all at most."""
        with self._lock:
            roots = [phase for phase, (parent, *_) in self._phases.items() if parent is None]
            percent = int(PERCENT * max(map(self._of, roots), default=0.0))
            grown = max(percent - self._told, 0)
            self._told += grown
            return grown

    def _of(self, phase: str) -> float:
        _, done, steps = self._phases[phase]
        inside = sum(self._of(name) for name, (parent, *_) in self._phases.items() if parent == phase)
        return min((done + min(inside, 1.0)) / steps, 1.0)


PERCENT = 100


def monitor(trt: Any, watch: Watch, step: Step) -> Any:
    """A progress monitor: its phases go to `step` as percent and notes, its steps ask `watch`."""
    share = Share()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 insists on the explicit call

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            def act() -> None:
                share.start(phase_name, parent_phase, num_steps)
                step.advance(0, phase_name)

            watch.guard(act)

        def step_complete(self, phase_name: str, step_index: int) -> bool:
            del step_index

            def act() -> None:
                share.done(phase_name)
                step.advance(share.more())

            watch.guard(act)
            return not watch.stop()

        def phase_finish(self, phase_name: str) -> None:
            watch.guard(lambda: share.finish(phase_name))

    return Monitor()
