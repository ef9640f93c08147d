"""Several processes that train one network, as `torchrun` starts them: who they are, and what they tell each other.

Every process makes the same batches and takes its own rows of each. What depends on a whole batch is summed over all:
the moments of BatchNorm (`synchronised`), the gradients (`Processes.sum_gradients`), loss and accuracy. A run on
several processes therefore equals one on a single process but for rounding.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from drsn_edge.errors import DrsnError, PeerFailed, UsageError
from drsn_edge.model.norm import BatchNorm1d, BatchNorm2d

T = TypeVar("T")
# Counts the processes that failed: the first one says why, the others say nothing.
_FAILED = "drsn-edge/failed"
# The first for processes that start together, the second for one that reads its data or writes a checkpoint while
# others wait. One that dies is noticed at once.
_MEETING, _PATIENCE = dt.timedelta(minutes=5), dt.timedelta(hours=1)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this is.

    Attributes:
        rank: 0 to `count - 1`; rank 0 leads: it alone writes files and speaks.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This process's share of `total` rows: as even as can be, in order of ranks."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def gathered(self, value: Tensor) -> Tensor:
        """`[count, ...]`: the values of all processes."""
        found = torch.zeros(self.count, *value.shape, dtype=value.dtype, device=value.device)
        found[self.rank] = value
        return self.summed(found)  # a sum with zeros is exact

    def summed(self, value: Tensor) -> Tensor:
        """The sum of the values of all processes; `value` itself holds it afterwards."""
        if self.count > 1:
            with _waiting():
                dist.all_reduce(value)
        return value

    def sum_gradients(self, network: nn.Module) -> None:
        """Every gradient becomes the sum over all processes, in one message: a network this small is all latency."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = self.summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        totals = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))

    def from_leader(self, value: T) -> T:
        """What rank 0 has; `value` of the others does not matter."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        with _waiting():
            dist.broadcast_object_list(box, src=0)
        result: T = box[0]
        return result


ALONE = Processes()


def started_by_torchrun() -> int:
    """How many processes `torchrun` has started for this run; 1 without it."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes that `torchrun` has started; without it, this one alone.

    When one fails all fail: the first with its own error, the others with `PeerFailed`.

    Raises:
        UsageError: What `torchrun` says of the processes cannot be understood.
        PeerFailed: Another process failed, and has said why.
        DrsnError: Another process has ended without a word.
    """
    if started_by_torchrun() == 1:
        yield ALONE
        return
    try:
        store, rank, count = next(rendezvous("env://", timeout=_MEETING))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            "the processes of the run cannot meet",
            got=_first_line(error),
            expected="the environment that torchrun sets",
            hint="torchrun --nproc-per-node N -m drsn_edge train ...; without torchrun, unset WORLD_SIZE",
        ) from None
    try:
        yield Processes(rank, count)
    except BaseException as error:
        if _is_first(store, error):
            raise
        raise PeerFailed("another process of the run failed", got=_first_line(error)) from error
    finally:
        dist.destroy_process_group()


def _is_first(store: Store, error: BaseException) -> bool:
    """Whether no other process has failed before this one."""
    try:
        return int(store.add(_FAILED, 1)) == 1
    except RuntimeError:  # the store has gone with the process that held it, which then was the first
        return not isinstance(error, _Lost | KeyboardInterrupt)


class _Lost(DrsnError):
    """Another process does not answer."""


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """For another process."""
    try:
        yield
    except RuntimeError as error:
        raise _Lost(
            "another process of the run has ended",
            got=_first_line(error),
            expected="processes that live until the run ends",
            hint="look for a lack of memory (dmesg), and give the command again with --resume",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def synchronised(network: nn.Module, processes: Processes) -> Iterator[None]:
    """BatchNorm of the whole batch, for as long. (`torch.nn.SyncBatchNorm` does not run on a CPU.)

    The modules stay what they are: a checkpoint can be written at any time.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm1d | BatchNorm2d)]
    try:
        for module in norms:
            module.exchange = processes if processes.count > 1 else None
        yield
    finally:
        for module in norms:
            module.exchange = None
