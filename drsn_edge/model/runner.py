"""The PyTorch runner: the reference that everything else is compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from drsn_edge.model.checkpoint import load_checkpoint
from drsn_edge.model.network import Network
from drsn_edge.runtime.runner import Runner, TensorSpec


class TorchRunner(Runner):
    """Runs a network in evaluation mode.

    Args:
        model: A `Network`, or the folder of a checkpoint.
        probe: Also return `U.threshold`, `U.zero_share` and `U.shrunk` of every shrinkage unit.
        double: Compute in float64: the noise floor of the comparison. Outputs stay float64 then.
        device: Where to run, as PyTorch names it.
    """

    name = "torch"
    concurrent = True

    def __init__(
        self, model: Network | Path | str, *, probe: bool = False, double: bool = False, device: str = "cpu"
    ) -> None:
        network = model if isinstance(model, Network) else load_checkpoint(Path(model)).network
        self._dtype = torch.float64 if double else torch.float32
        # A copy: the caller's network keeps its precision, device and mode.
        self._network = copy.deepcopy(network).to(device=device, dtype=self._dtype).eval()
        self._device = device
        self._probe = probe
        shape: tuple[int | str, ...] = ("batch", network.config.in_channels, *["samples"] * network.config.dims)
        self._threads_before = torch.get_num_threads()
        super().__init__(
            inputs={"window": TensorSpec("window", "float32", shape)},
            outputs={
                "logits": TensorSpec(
                    "logits", str(self._dtype).removeprefix("torch."), ("batch", network.config.classes)
                )
            },
        )

    def probing(self) -> TorchRunner:
        """A runner of the same network that returns its probes too, not active yet."""
        return TorchRunner(self._network, probe=True, double=self._dtype == torch.float64, device=self._device)

    def _activate(self) -> None:
        # OpenMP threads wait for each other by spinning: on a busy machine two of them were 400 times slower than one
        # with batches of 32. Callers run several batches side by side instead.
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)

    def _deactivate(self) -> None:
        torch.set_num_threads(self._threads_before)

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        # A copy: windows may be a read-only memory map, which PyTorch cannot share.
        window = torch.tensor(feeds["window"], device=self._device, dtype=self._dtype)
        with torch.inference_mode():
            if not self._probe:
                return {"logits": self._network(window).cpu().numpy()}
            logits, probes = self._network.probe(window)
        result = {"logits": logits.cpu().numpy()}
        for unit, probe in probes.items():
            result[f"{unit}.threshold"] = probe.threshold.cpu().numpy()
            result[f"{unit}.zero_share"] = probe.zero_share.cpu().numpy()
            result[f"{unit}.shrunk"] = probe.shrunk.cpu().numpy()
        return result
