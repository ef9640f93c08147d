"""What stands in for a sound bundle, a form that need not run, or an engine behind a faulty driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle
from drsn_edge.golden import Golden
from drsn_edge.pipeline.variants import Variant
from drsn_edge.runtime.runner import Runner

Array = NDArray[Any]


class Damaged(Bundle):
    """A bundle with other content in some files; what is not damaged is read once."""

    def __init__(self, base: Bundle, changed: dict[str, bytes], cache: dict[str, bytes]) -> None:
        super().__init__(base.path, base.manifest, base.digest)
        self.changed, self.cache = changed, cache

    def read(self, name: str) -> bytes:
        if name in self.changed:
            return self.changed[name]
        if name not in self.cache:
            self.cache[name] = super().read(name)
        return self.cache[name]


class Recorded(Variant):
    """An undamaged form: it gives again what it gave, to the bit, so it need not run."""

    def logits(self, windows: NDArray[np.float32], *, batch: int = 64, workers: int | None = None) -> Array:
        del batch, workers
        golden: Golden = self.runner.golden  # type: ignore[union-attr]
        assert windows.shape == golden.windows.shape
        return golden.logits[self.name]


class Replay(Runner):
    """Stands where a runner would."""

    name = "onnxruntime"

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        self.golden = golden

    def _activate(self) -> None: ...

    def _deactivate(self) -> None: ...

    def _infer(self, feeds: Any) -> dict[str, Array]:
        del feeds
        raise AssertionError("a recorded form is not run")


class Fed(Runner):
    """A graph that is fed something else than the window: an engine behind a faulty driver."""

    name = "onnxruntime"

    def __init__(self, runner: Runner, feed: Callable[[Array], Array]) -> None:
        super().__init__(inputs=runner.inputs, outputs=runner.outputs)
        self.inner, self.feed = runner, feed
        self._active = True

    def _activate(self) -> None: ...

    def _deactivate(self) -> None: ...

    def _infer(self, feeds: Any) -> dict[str, Array]:
        return self.inner.run({name: np.ascontiguousarray(self.feed(value)) for name, value in feeds.items()})
