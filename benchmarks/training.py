"""Training throughput: our loop against a plain PyTorch loop, the same network, noise and optimiser, in one run.

Protocol: random windows of 2048 samples, Gaussian noise of -6 to 10 dB drawn anew for every window of every epoch,
batches of 128, gradient descent with momentum. The loops take turns, one epoch each, so that whatever else the machine
does meets all of them; each lives in processes of its own, which sleep while others run; the first turn warms up and
does not count. Reported are medians over turns.

    plain                DataLoader, one window at a time through NumPy, PyTorch's layers, a thread for each core
    plain, workers       the same with one DataLoader worker for each core
    plain, one thread    the same on one thread, to tell the layers from the threads
    drsn-edge, one       our loop and layers, one process of one thread
    drsn-edge            one process of one thread for each core, which share every batch

The size of our process is read after every epoch: what a run keeps must not grow. Before all that, both kinds of layers
are checked to give the same loss and gradients.

    python -m benchmarks.training [--turns 5] [--windows 1280] [--model drsn-cw] [--preset paper] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.model.packing import PackedConv1d
from drsn_edge.model.shrinkage import Shrinkage, spatial_mean
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.windows import Windows
from drsn_edge.training.compute import TrainStep
from drsn_edge.training.loop import make_optimizer, train_epoch
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.parallel import processes, synchronised
from drsn_edge.training.sources import source

CLASSES, BATCH = 10, 128


@dataclass(frozen=True)
class Loop:
    """One contestant: how many processes, threads in each, and workers of its DataLoader."""

    plain: bool
    processes: int
    threads: int
    workers: int = 0


def contestants(cores: int) -> dict[str, Loop]:
    return {
        "plain": Loop(True, 1, cores),
        "plain, workers": Loop(True, 1, cores, cores),
        "plain, one thread": Loop(True, 1, 1),
        "drsn-edge, one": Loop(False, 1, 1),
        "drsn-edge": Loop(False, cores, 1),
    }


class PlainShrinkage(Shrinkage):
    """The equations, left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        magnitude = spatial_mean(x.abs())
        alpha = self.gate(magnitude)
        tau = alpha * (magnitude.mean(dim=1, keepdim=True) if self.shared else magnitude)
        tau = tau.reshape(*tau.shape, *[1] * (x.dim() - 2))
        return x - torch.maximum(torch.minimum(x, tau), -tau)


class PlainWindows(Dataset[tuple[Tensor, int]]):
    """One window at a time, as most training scripts have it."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.windows.x[index]
        power = x.var() * 10 ** (-self.rng.uniform(-6, 10) / 10)
        noise = self.rng.standard_normal(x.shape, dtype=np.float32) * np.float32(np.sqrt(power))
        return torch.from_numpy(x + noise), int(self.windows.y[index])


def make_windows(args: argparse.Namespace) -> Windows:
    rng = np.random.default_rng(0)
    return Windows(
        x=rng.standard_normal((args.windows, 1, args.length), dtype=np.float32),
        y=rng.integers(CLASSES, size=args.windows),
        cluster=np.arange(args.windows),
        labels=tuple(f"class-{index}" for index in range(CLASSES)),
    )


def make_network(args: argparse.Namespace, *, plain: bool) -> Network:
    """The same weights either way."""
    torch.manual_seed(0)
    config = NetworkConfig.preset(args.preset, model=args.model, classes=CLASSES)
    network = Network(config, SignalContract(sample_rate_hz=12000.0, window=args.length))
    for module in network.modules() if plain else ():
        if isinstance(module, PackedConv1d):
            module.__class__ = nn.Conv1d  # type: ignore[assignment]
        elif isinstance(module, Shrinkage):
            module.__class__ = PlainShrinkage
    return network.train()


def largest_difference(args: argparse.Namespace, windows: Windows) -> float:
    """Between losses and gradients of both kinds of layers in float64, each relative to its largest element."""
    found: list[list[Tensor]] = []
    for plain in (True, False):
        network = make_network(args, plain=plain).double()
        x, y = torch.from_numpy(windows.x[:64]).double(), torch.from_numpy(windows.y[:64])
        loss = F.cross_entropy(network(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        # Biases in front of a BatchNorm have no gradient but rounding.
        found.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None and p.dim() > 1)])
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(*found, strict=True))


def plain_epoch(network: Network, windows: Windows, workers: int) -> Callable[[int], None]:
    loader = DataLoader(
        PlainWindows(windows), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def run(epoch: int) -> None:
        del epoch
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def memory_mb() -> float:
    """What this process holds in memory; its largest size so far where the system does not say."""
    path = Path("/proc/self/statm")
    if path.is_file():
        return int(path.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def cpu_seconds() -> float:
    """Of this process; DataLoader workers live too long to be counted."""
    return time.process_time()


def end_with_parent() -> None:
    """When the benchmark is killed, its processes go, too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def serve(line: Connection, args: argparse.Namespace, loop: Loop, rank: int, port: int) -> None:
    """One process of a loop: an epoch whenever its number comes along the line, until the line ends."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(loop.processes), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(loop.threads)
    windows, network = make_windows(args), make_network(args, plain=loop.plain)
    cpu = torch.device("cpu")
    with processes(cpu) as group, synchronised(network, group), contextlib.suppress(EOFError):
        if loop.plain:
            run = plain_epoch(network, windows, loop.workers)
        else:
            options = FitOptions(epochs=1, batch=BATCH, lr=0.01, noise=NoiseRange(("gaussian",), (-6.0, 10.0)))
            step = TrainStep(network, make_optimizer(network, options), processes=group)
            batches = source(windows, windows, options, cpu, group)

            def run(epoch: int) -> None:
                train_epoch(step, batches.epoch(epoch))

        while True:
            epoch = line.recv()
            began, used = time.perf_counter(), cpu_seconds()
            run(epoch)
            line.send((time.perf_counter() - began, cpu_seconds() - used, memory_mb()))


def measure(args: argparse.Namespace, loops: dict[str, Loop]) -> dict[str, list[tuple[float, float, float]]]:
    """Seconds, CPU seconds of all processes, and size of the first one, of every turn but the first."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, list[Connection]] = {}
    running = []
    for name, loop in loops.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(loop.processes):
            ours, theirs = context.Pipe()
            lines.setdefault(name, []).append(ours)
            running.append(context.Process(target=serve, args=(theirs, args, loop, rank, port)))
            running[-1].start()
            theirs.close()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in loops}
    try:
        for turn in range(args.turns + 1):
            for name, of_loop in lines.items():
                for line in of_loop:
                    line.send(turn)
                answers = [line.recv() for line in of_loop]
                if turn:
                    seconds = max(answer[0] for answer in answers)
                    found[name].append((seconds, sum(answer[1] for answer in answers), answers[0][2]))
    finally:
        for line in (line for of_loop in lines.values() for line in of_loop):
            line.close()
        for process in running:
            process.join(timeout=30)
            if process.is_alive():
                process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="epochs of every loop")
    parser.add_argument("--windows", type=int, default=1280)
    parser.add_argument("--length", type=int, default=2048, help="samples of a window")
    parser.add_argument("--model", default="drsn-cw")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    args = parser.parse_args()
    if args.windows < BATCH or args.turns < 1:
        parser.error(f"--windows is at least {BATCH}, --turns at least 1")
    torch.set_num_threads(1)
    difference = largest_difference(args, make_windows(args))
    if difference > 1e-9:
        raise SystemExit(f"error: the two kinds of layers differ by {difference:.1e}, expected rounding")
    loops = contestants(usable_cpus())
    turns = measure(args, loops)
    seen = {
        name: args.windows // BATCH * BATCH if loop.plain else -(-args.windows // BATCH) * BATCH
        for name, loop in loops.items()
    }
    speeds = {name: [seen[name] / seconds for seconds, _, _ in found] for name, found in turns.items()}
    work = {name: statistics.median(1e3 * cpu / seen[name] for _, cpu, _ in found) for name, found in turns.items()}
    median = {name: statistics.median(values) for name, values in speeds.items()}
    best_plain = max(median["plain"], median["plain, workers"])
    memory = [size for _, _, size in turns["drsn-edge, one"]]
    table = [f"{'loop':<20}{'windows/s':>11}{'fastest':>10}{'CPU ms/window':>15}{'times plain':>13}"]
    for name, value in median.items():
        table.append(
            f"{name:<20}{value:>11.0f}{max(speeds[name]):>10.0f}{work[name]:>15.2f}{value / median['plain']:>13.2f}"
        )
    table.append(f"memory after epoch 1: {memory[0]:.0f} MB, after epoch {len(memory)}: {memory[-1]:.0f} MB")
    print("\n".join(table), file=sys.stderr)
    document = {
        "format_version": 1,
        "device": {
            "machine": platform.machine(),
            "cpus": usable_cpus(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "load_average": os.getloadavg()[0],
        },
        "options": {
            "model": args.model,
            "preset": args.preset,
            "batch": BATCH,
            "length": args.length,
            "windows": args.windows,
            "turns": args.turns,
        },
        "rows": [
            {
                "loop": name,
                "processes": loop.processes,
                "threads": loop.threads,
                "workers": loop.workers,
                "windows_per_s": speeds[name],
                "median": median[name],
                "cpu_ms_per_window": work[name],
            }
            for name, loop in loops.items()
        ],
        "summary": {
            "windows_per_s": median["drsn-edge"],
            "plain_windows_per_s": median["plain"],
            "plain_workers_windows_per_s": median["plain, workers"],
            "speedup": median["drsn-edge"] / median["plain"],
            "speedup_over_best_plain": median["drsn-edge"] / best_plain,
            "speedup_one_thread_each": median["drsn-edge, one"] / median["plain, one thread"],
            "speedup_in_cpu_time": work["plain, one thread"] / work["drsn-edge, one"],
            "memory_mb": memory,
            "memory_growth_mb": memory[-1] - memory[0],
            "largest_relative_difference": difference,
        },
    }
    if args.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
