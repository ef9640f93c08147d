"""TensorRT for RTX: the runner of TensorRT, with kernels compiled on the machine that runs them.

What is compiled can be kept in a file, the runtime cache: without one, every process compiles anew. CUDA graphs are
the library's own business here: it knows when its kernels are final.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from drsn_edge.files import write_bytes
from drsn_edge.runtime.tensorrt_runner import TensorRTRunner


class RtxRunner(TensorRTRunner):
    """Runs a plan of TensorRT for RTX.

    Args:
        path: The plan, unmodified.
        cuda_graph: Let the library capture and replay calls.
        runtime_cache: File to keep compiled kernels in; read if it exists, written when the runner ends. One that the
            library does not take (of another version or GPU) is replaced.

    Raises:
        InputError, MissingDevice, MissingDependency: As `TensorRTRunner`.
    """

    name = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"

    def __init__(self, path: Path | str, *, cuda_graph: bool = True, runtime_cache: Path | str | None = None) -> None:
        super().__init__(path, cuda_graph=False)
        self._library_graph = cuda_graph
        self._cache_path = None if runtime_cache is None else Path(runtime_cache)
        self._cache: Any = None

    def _create_context(self, engine: Any) -> Any:
        config = engine.create_runtime_config()
        # Both came with RTX 1.1 and later; the runner of an older one works without.
        strategy = getattr(self._trt, "CudaGraphStrategy", None)
        if strategy is not None and hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._library_graph else strategy.DISABLED
        if self._cache_path is not None and hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            if self._cache_path.is_file():
                self._cache.deserialize(self._cache_path.read_bytes())
            config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def _deactivate(self) -> None:
        cache, self._cache = self._cache, None
        try:
            if cache is not None and self._cache_path is not None and self._context is not None:
                write_bytes(self._cache_path, bytes(cache.serialize()))
        finally:
            super()._deactivate()
