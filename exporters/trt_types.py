"""What is asked of an engine builder, and what came of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from drsn_edge.errors import UsageError
from drsn_edge.runtime.runner import TensorSpec

Precision = Literal["fp32", "fp16", "int8"]
Backend = Literal["tensorrt", "rtx"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        precision: Of the convolutions; the build fails when the engine does not have it.
        backend: `auto` takes TensorRT where it and a GPU are, else TensorRT for RTX.
        targets: GPUs to build for, as `sm86`. Only TensorRT for RTX builds for others than its own machine's; without
            any it builds for all that it knows.
        min_batch: Smallest batch of the profile.
        opt_batch: The batch that kernels are chosen for.
        max_batch: Largest batch of the profile; buffers of the runner are made for it.
        workspace_mb: Upper limit of scratch memory during one call, in MiB. Kernels that need more are left out.
        timing_cache: Of an earlier build on the same GPU and TensorRT, to build faster, and the same kernels again.
        version_compatible: For later TensorRT versions too (slower; needs a lean runtime to run elsewhere). The plan
            holds no native code: the lean runtime is left out of it.
        hardware_compatible: For other GPUs from Ampere on too (slower; not on a Jetson).
        refit: Its weights can be exchanged later, for those of another training.
        stripped: Its weights are left out; they are put back from the graph when it is loaded. TensorRT 10 and later.
        external_tactics: Kernels of cuBLAS and cuDNN may be chosen, where the builder knows such. Without them
            neither library is loaded.
        strongly_typed: Whether element types come from the graph or from the builder's choice; None takes what suits
            the version (see `typing_for`).

    Raises:
        UsageError: A value that cannot be.
    """

    precision: Precision = "fp16"
    backend: Literal["auto", "tensorrt", "rtx"] = "auto"
    targets: tuple[str, ...] = ()
    min_batch: int = 1
    opt_batch: int = 16
    max_batch: int = 256
    workspace_mb: int = 1024
    timing_cache: bytes | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    stripped: bool = False
    external_tactics: bool = True
    strongly_typed: bool | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UsageError("there is no such precision", got=self.precision, expected=", ".join(get_args(Precision)))
        if self.backend not in ("auto", *get_args(Backend)):
            raise UsageError("there is no such engine builder", got=self.backend, expected="auto, tensorrt or rtx")
        for target in self.targets:
            if not re.fullmatch(r"sm\d{2,3}", target):
                raise UsageError("this is not a target", got=target, expected="a compute capability such as sm86")
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise UsageError(
                "the batches of the profile are out of order",
                got=f"min {self.min_batch}, opt {self.opt_batch}, max {self.max_batch}",
                expected="1 <= min <= opt <= max",
            )
        if self.workspace_mb < 1:
            raise UsageError("the workspace is too small", got=self.workspace_mb, expected="at least 1 MiB")


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One layer of a built engine: usually one kernel, for several nodes of the graph.

    Attributes:
        name: TensorRT's.
        type: TensorRT's, e.g. `correlation`, `CaskConvolution`, `kgen`.
        onnx_nodes: Names of the nodes that it computes, or a part of.
        inputs: Element types of its inputs, NumPy's names; weights left out.
        outputs: Element types of its outputs.
        tactic: The kernel, where TensorRT says which.
    """

    name: str
    type: str
    onnx_nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str


@dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        spec: Name, type, shape.
        mode: Which of both it is.
        profile: Smallest, best and largest shape of an input with free sizes; None otherwise.
    """

    spec: TensorSpec
    mode: Literal["input", "output"]
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """A plan, and everything that is known about it.

    Attributes:
        plan: The bytes, unmodified.
        backend: Which builder made it.
        version: Of the builder.
        precision: Asked for, and found in the layers.
        strongly_typed: Whether the graph's element types were binding.
        targets: GPUs that it was built for; empty where nobody says.
        tensors: Inputs, then outputs.
        layers: Read back from the engine.
        log: Warnings of the builder.
        seconds: The build took.
        flags: Network and builder flags that were set, by TensorRT's names.
        hardware_compatible: It runs on every GPU from Ampere on.
        timing_cache: To give to the next build; None where there is none.
    """

    plan: bytes
    backend: Backend
    version: str
    precision: Precision
    strongly_typed: bool
    targets: tuple[str, ...]
    tensors: tuple[EngineTensor, ...]
    layers: tuple[LayerInfo, ...]
    log: tuple[str, ...]
    seconds: float
    flags: tuple[str, ...]
    hardware_compatible: bool = False
    timing_cache: bytes | None = None

    @property
    def kernels(self) -> int:
        """Layers that launch work: shape arithmetic, constants and synchronisation left out."""
        idle = {"shape_call", "constant", "noop", "signal", "wait"}
        return sum(layer.type.lower() not in idle for layer in self.layers)
