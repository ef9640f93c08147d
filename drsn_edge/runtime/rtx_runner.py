"""TensorRT for RTX: the runner of TensorRT, with kernels compiled on the machine that runs them.

What is compiled can be kept in a file, the runtime cache: without one, every process compiles anew. CUDA graphs are
the library's own business here: it knows when its kernels are final.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from drsn_edge.errors import UsageError
from drsn_edge.files import sha256_bytes, write_bytes
from drsn_edge.runtime.tensorrt_runner import TensorRTRunner

_STRATEGIES = ("lazy", "eager", "none")
_CACHE_HEAD = b"drsn-edge runtime cache 1\n"


class RtxRunner(TensorRTRunner):
    """Runs a plan of TensorRT for RTX.

    Args:
        path: The plan, unmodified.
        cuda_graph: Let the library capture and replay calls.
        runtime_cache: Keep compiled kernels: True in a file beside the plan, `PLAN.cache`, or the file to use. It is
            read if it is there, whole, and of this very plan; it is written when the runner ends. Off by default:
            it is code for the GPU that no manifest lists.
        specialisation: When kernels for the very shapes in use are made: `lazy` in the background while general ones
            run, `eager` before the first call with a shape returns, `none` never. None is the library's own choice.
        weights: As of `TensorRTRunner`.
        streams: As of `TensorRTRunner`.
        reuse_outputs: As of `TensorRTRunner`.

    Raises:
        UsageError: No such specialisation; or as `TensorRTRunner`.
        InputError, MissingDevice, MissingDependency: As `TensorRTRunner`.
    """

    name = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"

    def __init__(
        self,
        path: Path | str,
        *,
        cuda_graph: bool = True,
        runtime_cache: Path | str | bool = False,
        specialisation: Literal["lazy", "eager", "none"] | None = None,
        weights: Path | bytes | None = None,
        streams: int = 1,
        reuse_outputs: bool = False,
    ) -> None:
        super().__init__(path, cuda_graph=False, weights=weights, streams=streams, reuse_outputs=reuse_outputs)
        if specialisation not in (None, *_STRATEGIES):
            raise UsageError("there is no such specialisation", got=specialisation, expected=", ".join(_STRATEGIES))
        self._library_graph = cuda_graph
        self._specialisation = specialisation
        if isinstance(runtime_cache, bool):
            runtime_cache = self._path.with_name(f"{self._path.name}.cache") if runtime_cache else ""
        self._cache_path = Path(runtime_cache) if runtime_cache else None
        self._config: Any = None
        self._cache: Any = None

    def _create_context(self, engine: Any) -> Any:
        if self._config is None:
            self._config = self._runtime_config(engine)
        return engine.create_execution_context(self._config)

    def _runtime_config(self, engine: Any) -> Any:
        """What all contexts share: one cache, one strategy."""
        config = engine.create_runtime_config()
        # These came with RTX 1.1 and later; the runner of an older one works without.
        strategy = getattr(self._trt, "CudaGraphStrategy", None)
        if strategy is not None and hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._library_graph else strategy.DISABLED
        kernels = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is not None and self._specialisation is not None:
            wanted = {"lazy": kernels.LAZY, "eager": kernels.EAGER, "none": kernels.NONE}
            config.dynamic_shapes_kernel_specialization_strategy = wanted[self._specialisation]
        if self._cache_path is not None and hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            kept = self._read_cache(self._cache_path)
            if kept:
                self._cache.deserialize(kept)  # False for one of another GPU or version: it is written anew then
            config.set_runtime_cache(self._cache)
        return config

    def _read_cache(self, path: Path) -> bytes:
        """What is kept of this very plan, whole; nothing otherwise."""
        if not path.is_file():
            return b""
        head, _, body = path.read_bytes().partition(b"\n\n")
        return body if head + b"\n\n" == self._cache_head(body) else b""

    def _cache_head(self, body: bytes) -> bytes:
        plan = sha256_bytes(self._path.read_bytes())
        return _CACHE_HEAD + f"plan {plan}\ncontent {sha256_bytes(body)}\n\n".encode()

    def _deactivate(self) -> None:
        cache, self._cache = self._cache, None
        try:
            if cache is not None and self._cache_path is not None and self._lanes:
                body = bytes(cache.serialize())
                with contextlib.suppress(OSError):  # a device's file system may be read-only; it is only a cache
                    write_bytes(self._cache_path, self._cache_head(body) + body)
        finally:
            self._config = None
            super()._deactivate()
