"""Where and in what arithmetic a network is trained, and one step of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from drsn_edge.errors import MissingDependency, MissingDevice, UsageError
from drsn_edge.model.network import Network
from drsn_edge.training.parallel import ALONE, Processes

Amp = Literal["none", "bf16", "fp16"]
AMPS: tuple[str, ...] = get_args(Amp)
DEVICES = ("auto", "cpu", "cuda")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How steps are computed; validation and scores are always in FP32, as the network will be exported.

    Attributes:
        amp: `bf16` or `fp16`: convolutions and maps in 16 bits where autocast allows it, weights, statistics of batches
            and thresholds in FP32; `fp16` with a scale on the loss. `none` is FP32 throughout.
        compile: Let `torch.compile` make the kernels; on a GPU every step is then one CUDA graph for each direction.

    Raises:
        UsageError: An unknown `amp`.
    """

    amp: Amp = "none"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.amp not in AMPS:
            raise UsageError("there is no mixed precision of this kind", got=self.amp, expected=", ".join(AMPS))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of what is not as by default, so that the identity of older runs stays what it was."""
        return ({"amp": self.amp} if self.amp != "none" else {}) | ({"compile": True} if self.compile else {})

    def check(self, device: torch.device, processes: Processes = ALONE) -> None:
        """Refuse what a device or several processes cannot do.

        Raises:
            UsageError: FP16 on a CPU, or a compiled network in several processes.
            MissingDevice: A GPU without BF16.
        """
        if self.amp == "fp16" and device.type == "cpu":
            raise UsageError(
                "fp16 training needs a GPU",
                got="--amp fp16 on cpu",
                expected="bf16 or none on a CPU",
                hint="--amp bf16",
            )
        if self.amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise MissingDevice(
                "the GPU does not compute in bf16",
                got=torch.cuda.get_device_name(device),
                expected="compute capability 8.0 or later",
                hint="--amp fp16",
            )
        if self.compile and processes.count > 1:
            raise UsageError(
                "a compiled network cannot be trained in several processes",
                got=f"--compile in {processes.count} processes",
                expected="one of the two",
                hint="leave --compile out, or start one process: a network this small keeps one GPU busy",
            )


def find_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is a GPU where there is one. Under `torchrun` each process has its own.

    Raises:
        UsageError: An unknown name.
        MissingDevice: `cuda` without a GPU that PyTorch can use, or with more processes than GPUs.
    """
    if name not in DEVICES:
        raise UsageError("there is no device of this name", got=name, expected=", ".join(DEVICES))
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MissingDevice(
            "PyTorch finds no GPU",
            got=f"--device cuda with PyTorch {torch.__version__}",
            expected="an NVIDIA GPU, its driver, and a PyTorch with CUDA",
            hint="drsn-edge doctor says what is here; --device cpu trains without one",
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise MissingDevice(
            "there are more processes than GPUs",
            got=f"process {local + 1} of this machine, {torch.cuda.device_count()} GPUs",
            expected="one GPU for each",
            hint="torchrun --nproc-per-node with the number of GPUs",
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


class TrainStep:
    """Forward, backward, and one step of the optimiser on this process's rows of a batch.

    Attributes:
        network: The network itself, never compiled or wrapped.
        device: Where it is.
        scaler: Of the loss; does nothing but in FP16.
    """

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        *,
        compute: Compute | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.compute, self.processes = compute or Compute(), processes
        self.device = next(network.parameters()).device
        self.compute.check(self.device, processes)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.compute.amp == "fp16")
        self._forward: Callable[[Tensor], Tensor] = network
        if self.compute.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else None  # CUDA graphs
            self._forward = torch.compile(network, mode=mode, dynamic=False)

    def __call__(self, x: Tensor, target: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Rows `x` `[N, C, ...]` of a batch of `total`: their summed loss, and how many were decided rightly.

        Raises:
            MissingDependency: What `torch.compile` needs is not there.
        """
        if not self.compute.compile:
            return self._step(x, target, total)
        from torch._dynamo.exc import TorchDynamoException

        try:
            if self.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return self._step(x, target, total)
        except TorchDynamoException as error:  # forward is compiled at the first call, backward at its first pass
            raise MissingDependency(
                "the network cannot be compiled",
                got=" ".join(str(error).split("\n")[:2]),
                expected="a C++ compiler for a CPU, Triton for a GPU, and a whole cache of PyTorch's compiler",
                hint="install g++ (CPU) or a PyTorch with Triton (GPU); delete the cache (/tmp/torchinductor_USER, or "
                "TORCHINDUCTOR_CACHE_DIR) after a compilation that was killed; or leave --compile out",
            ) from error

    def _step(self, x: Tensor, target: Tensor, total: int) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        amp = self.compute.amp
        with torch.autocast(self.device.type, dtype=_TYPES.get(amp), enabled=amp != "none"):
            logits = self._forward(x)
            loss = F.cross_entropy(logits, target, reduction="sum")
        self.scaler.scale(loss / total).backward()  # type: ignore[no-untyped-call]
        self.processes.sum_gradients(self.network)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), (logits.detach().argmax(dim=1) == target).sum()

    def state_dict(self) -> dict[str, Any]:
        """Of the optimiser, and in FP16 of the scale."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state | {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.optimizer.load_state_dict({name: value for name, value in state.items() if name != "scaler"})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """PyTorch's own threads, for as long.

    Raises:
        UsageError: None.
    """
    if count < 1:
        raise UsageError("the number of threads cannot be used", got=count, expected="at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
