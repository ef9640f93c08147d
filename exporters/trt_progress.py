"""A builder's phases as progress, and the way to stop it."""

from __future__ import annotations

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


def monitor(trt: Any, watch: Watch, step: Step) -> Any:
    """A progress monitor: its phases go to `step` as notes, its steps ask `watch`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 insists on the explicit call

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase, num_steps  # phases run side by side and nest: there is no one total
            watch.guard(lambda: step.advance(0, phase_name))

        def step_complete(self, phase_name: str, step_index: int) -> bool:
            del phase_name, step_index
            watch.guard(lambda: step.advance(1))
            return not watch.stop()

        def phase_finish(self, phase_name: str) -> None:
            del phase_name

    return Monitor()
