"""Every way to run the network on one machine: PyTorch, compiled, ONNX Runtime, TensorRT; and what it could be at best.

Four parts, which meet in files of one folder and may run in different Pythons and on different machines:

    graphs     needs the host packages, no GPU: a network of each preset, hardly trained, as a bundle, weights as npz
    torch      needs PyTorch: eager, and torch.compile with CUDA graphs where there is a GPU; memory and launch speed
    onnxruntime  ONNX Runtime, on CUDA where its build has that, else on the CPU
    tensorrt   needs numpy, tensorrt and cuda-bindings only: fp32, fp16, int8; whether a plan of TensorRT for RTX runs
    summary    needs nothing: goals and measured figures beside each other

Protocol: windows of 2048 samples; a call takes an array on the host and gives one back, so copies are part of it.
Rows of a part take turns (`drsn_edge.runtime.timing`). Every row is checked on golden windows against PyTorch's logits.
The limit is the time to move, once, what convolutions read and write and no cache holds, at the bandwidth of a copy on
the same GPU, or the time of as many launches as the engine has kernels, whichever is longer. cuBLAS and cuDNN are off.

    python -m benchmarks.gpu [--work DIR] [--part all] [--presets paper,edge] [--batches 1,16] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drsn_edge.bundle import GOLDEN, Bundle
from drsn_edge.errors import DrsnError, OutOfTolerance
from drsn_edge.extras import available
from drsn_edge.golden import Golden
from drsn_edge.runtime.device_state import read_device_state
from drsn_edge.runtime.driver import probe_device
from drsn_edge.runtime.timing import TimingOptions, measure

PARTS = ("graphs", "torch", "onnxruntime", "tensorrt", "summary")
PRECISIONS = ("fp32", "fp16", "int8")
Row = dict[str, Any]
Run = Callable[[Any], Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where parts meet; a temporary folder by default")
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    parser.add_argument("--presets", default="paper,edge")
    parser.add_argument("--batches", help="1,16,256,4096 with a GPU, 1,16 without one")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row, at most")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3, help="of the training in the part graphs")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    args = parser.parse_args(argv)
    # On a CPU a single call of 4096 windows takes half a minute.
    batches = args.batches or ("1,16" if probe_device().device is None else "1,16,256,4096")
    args.presets, args.batches = args.presets.split(","), [int(item) for item in batches.split(",")]
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        for part in PARTS[:-1] if args.part == "all" else (args.part,):
            if part == "summary":
                continue
            began = time.monotonic()
            try:
                document = {"torch": torch_part, "onnxruntime": ort_part, "tensorrt": trt_part, "graphs": graphs_part}[
                    part
                ](work, args)
            except (DrsnError, ImportError) as error:
                document = {"rows": [], "not_run": [f"{part}: {error}"]}
            document |= {"part": part, "device": read_device_state().to_json(), "seconds": time.monotonic() - began}
            (work / f"{part}.json").write_text(json.dumps(document, indent=2, allow_nan=False))
            print(f"{part}: {document['seconds']:.0f} s", file=sys.stderr)
        if args.part in ("all", "summary"):
            document = summarise({p: json.loads((work / f"{p}.json").read_text()) for p in PARTS[:-1]
                                  if (work / f"{p}.json").is_file()})  # fmt: skip
    if not args.json:
        show(document)
    print(json.dumps(document, indent=2, allow_nan=False))
    return 0


def graphs_part(work: Path, args: argparse.Namespace) -> Row:
    """A bundle of each preset, its weights as npz, and how much its convolutions move."""
    from drsn_edge.model.checkpoint import load_checkpoint
    from drsn_edge.pipeline.export import ExportOptions, export
    from drsn_edge.pipeline.sweep import SweepOptions
    from drsn_edge.pipeline.train import train

    moved = {}
    for preset in args.presets:
        run, out = work / f"{preset}.run", work / f"{preset}.drsn"
        # Enough that calibration finds a network that decides better than chance; no more, since speed is measured.
        train("synthetic", out=run, preset=preset, epochs=args.epochs, force=True)
        # Hardly trained weights may be out of tolerance: the bundle is written then, and the error stands in each row.
        with contextlib.suppress(OutOfTolerance):
            options = ExportOptions(engines=(), report=False, calibration_windows=64, seed=0)
            export(
                run,
                out=out,
                calibrate="synthetic",
                options=options,
                sweep=SweepOptions(draws=1, snrs_db=(0.0,)),
                force=True,
            )
        checkpoint = load_checkpoint(run)
        weights: dict[str, Any] = {name: value.numpy() for name, value in checkpoint.network.state_dict().items()}
        np.savez(work / f"{preset}.npz", **weights)
        moved[preset] = _elements(checkpoint.network.eval(), checkpoint.contract.window)
    return {"rows": [], "elements_per_window": moved}


def _elements(network: Any, length: int) -> int:
    """What convolutions read and write for one window, where everything else is fused into them."""
    import torch

    total = 0

    def count(_: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    hooks = [item.register_forward_hook(count) for item in network.modules() if isinstance(item, torch.nn.Conv1d)]
    with torch.inference_mode():
        network(torch.zeros(1, 1, length))
    for hook in hooks:
        hook.remove()
    return total


def windows_of(work: Path, preset: str) -> tuple[Bundle, Golden]:
    bundle = Bundle.open(work / f"{preset}.drsn")
    return bundle, Golden.from_bytes(bundle.read(GOLDEN))


def rows_of(runs: dict[tuple[str, str, str], Run], work: Path, args: argparse.Namespace) -> list[Row]:
    """Measure ways to run, named by (preset, way, precision), in turns; check each on the golden windows."""
    cases: list[tuple[Row, Callable[[], object]]] = []
    rows: list[Row] = []
    for (preset, way, precision), run in runs.items():
        _, golden = windows_of(work, preset)
        wanted, found = golden.logits["pytorch"], np.concatenate([run(golden.windows[i : i + 1])
                                                                   for i in range(len(golden))])  # fmt: skip
        parity = {
            "max_rel": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
            "top1_agreement": float((found.argmax(1) == wanted.argmax(1)).mean()),
        }
        for batch in args.batches:
            row = {"preset": preset, "way": way, "precision": precision, "batch": batch, "parity": parity}
            x = np.ascontiguousarray(golden.windows[np.arange(batch) % len(golden)])
            cases.append((row, functools.partial(run, x)))
            rows.append(row)
    timing = TimingOptions(iterations=args.iterations, warmup=3, seconds=args.seconds, rounds=5)
    for (row, _), timed in zip(cases, measure([call for _, call in cases], options=timing), strict=True):
        row |= {"p50_ms": timed.p50_ms, "p95_ms": timed.p95_ms, "p99_ms": timed.p99_ms, "iterations": timed.iterations,
                "windows_per_s": 1e3 * row["batch"] / timed.mean_ms, "drift": timed.drift}  # fmt: skip
    return rows


def torch_part(work: Path, args: argparse.Namespace) -> Row:
    """PyTorch eager and compiled, and the speeds that bound everything on this GPU."""
    import torch

    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    runs: dict[tuple[str, str, str], Run] = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for preset in args.presets:
        bundle, _ = windows_of(work, preset)
        network = Network(NetworkConfig.from_json(bundle.manifest["model"]["network"]), bundle.contract)
        with np.load(work / f"{preset}.npz") as state:
            network.load_state_dict({name: torch.from_numpy(state[name]) for name in state.files})
        network = network.to(device).eval().requires_grad_(False)
        runs[preset, f"torch-eager-{device}", "fp32"] = _torch_run(network, device)
        if cuda:
            compiled = torch.compile(network, mode="reduce-overhead")
            runs[preset, "torch-compile-cuda", "fp32"] = _torch_run(compiled, device)
    not_run = [] if cuda else ["torch-compile-cuda: no GPU"]
    speeds = _gpu_speeds() if cuda else {"bandwidth_bytes_per_s": None, "launch_s": None}
    return {"rows": rows_of(runs, work, args), "not_run": not_run, **speeds}


def _torch_run(network: Any, device: str) -> Run:
    import torch

    def run(x: Any) -> Any:
        host = torch.from_numpy(x)
        host = host.pin_memory() if device == "cuda" else host
        with torch.inference_mode():
            return network(host.to(device, non_blocking=True)).cpu().numpy()

    return run


def _gpu_speeds() -> Row:
    """Bandwidth of a copy on the GPU, read and write counted; time of one small kernel in a CUDA graph."""
    import torch

    def timed(call: Callable[[], object], count: int) -> float:
        call()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = timed(lambda: target.copy_(source), 20)
    small, graph = torch.zeros(32, device="cuda"), torch.cuda.CUDAGraph()
    small.add_(1)
    with torch.cuda.graph(graph):
        for _ in range(200):
            small.add_(1)
    return {"bandwidth_bytes_per_s": 2 * source.numel() / copy, "launch_s": timed(graph.replay, 50) / 200}


def ort_part(work: Path, args: argparse.Namespace) -> Row:
    """The graphs in ONNX Runtime."""
    from drsn_edge.extras import require

    ort: Any = require("onnxruntime", purpose="the rows of ONNX Runtime")
    cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    provider, way = (
        ("CUDAExecutionProvider", "onnxruntime-cuda") if cuda else ("CPUExecutionProvider", "onnxruntime-cpu")
    )
    runs: dict[tuple[str, str, str], Run] = {}
    for preset in args.presets:
        bundle, _ = windows_of(work, preset)
        for precision, file in (("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8" if cuda else "int8-fp32")):
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            session = ort.InferenceSession(bundle.read(f"model.{file}.onnx"), options, providers=[provider])
            runs[preset, way, precision] = functools.partial(_ort_run, session)
    not_run = [] if cuda else ["onnxruntime-cuda: this build of ONNX Runtime has no CUDA"]
    return {"rows": rows_of(runs, work, args), "not_run": not_run}


def _ort_run(session: Any, x: Any) -> Any:
    return session.run(["logits"], {"window": x})[0]


def trt_part(work: Path, args: argparse.Namespace) -> Row:
    """Engines of TensorRT, and whether one of TensorRT for RTX runs here."""
    from drsn_edge.exporters.trt_engine import EngineOptions, build_engine, load_builder, wanted_graph
    from drsn_edge.runtime.runner import open_runner

    probe = probe_device()
    if probe.device is None:
        return {"rows": [], "not_run": [f"tensorrt: no GPU: {probe.reason}"], "rtx": f"not tried: {probe.reason}"}
    runs: dict[tuple[str, str, str], Run] = {}
    not_run, engines = [], []
    largest = max(args.batches)
    with contextlib.ExitStack() as stack:
        for preset in args.presets:
            bundle, _ = windows_of(work, preset)
            for precision in PRECISIONS:
                options = EngineOptions(precision=precision, backend="tensorrt", max_batch=largest,  # type: ignore[arg-type]
                                        opt_batch=min(256, largest), external_tactics=False)  # fmt: skip
                try:
                    graph = wanted_graph(options, trt=load_builder(options))
                    made = build_engine(bundle.read(graph), options=options)
                    path = work / f"{preset}.{precision}.engine"
                    path.write_bytes(made.plan)
                    runner = stack.enter_context(open_runner("tensorrt", path))
                except DrsnError as error:
                    not_run.append(f"{preset} {precision}: {error}")
                    continue
                runs[preset, "tensorrt", precision] = functools.partial(_runner_run, runner)
                engines.append({"preset": preset, "precision": precision, "kernels": made.kernels,
                                "seconds": made.seconds, "version": made.version})  # fmt: skip
        rows = rows_of(runs, work, args) if runs else []
    return {"rows": rows, "not_run": not_run, "engines": engines, "rtx": _try_rtx(work, args)}


def _runner_run(runner: Any, x: Any) -> Any:
    return runner.run({"window": x})["logits"]


def _try_rtx(work: Path, args: argparse.Namespace) -> str:
    """What became of a plan of TensorRT for RTX, in words."""
    from drsn_edge.exporters.trt_engine import EngineOptions, build_engine
    from drsn_edge.runtime.runner import open_runner

    if not available("tensorrt_rtx"):
        return "not tried: tensorrt_rtx is not installed"
    bundle, golden = windows_of(work, args.presets[0])
    try:
        made = build_engine(bundle.read("model.fp16.onnx"), options=EngineOptions(precision="fp16", backend="rtx"))
        path = work / "rtx.engine"
        path.write_bytes(made.plan)
        with open_runner("tensorrt-rtx", path) as runner:
            runner.run({"window": golden.windows[:1]})
    except DrsnError as error:
        return f"does not run: {error}"
    return "runs"


def summarise(parts: dict[str, Row]) -> Row:
    """Rows of all parts with their limits, and the goals beside what was measured; null where it was not."""
    rows = [dict(row) for part in parts.values() for row in part["rows"]]
    elements = parts.get("graphs", {}).get("elements_per_window", {})
    speeds = parts.get("torch", {})
    kernels = {(e["preset"], e["precision"]): e["kernels"] for e in parts.get("tensorrt", {}).get("engines", [])}
    for row in rows:
        size = 4 if row["precision"] == "fp32" else 2
        bandwidth, launch = speeds.get("bandwidth_bytes_per_s"), speeds.get("launch_s")
        moved = elements.get(row["preset"])
        row["limit_bytes_ms"] = 1e3 * moved * size * row["batch"] / bandwidth if moved and bandwidth else None
        count = kernels.get((row["preset"], row["precision"])) if row["way"] == "tensorrt" else None
        row["limit_launches_ms"] = 1e3 * count * launch if count and launch else None
    goals = [goal for preset in sorted({row["preset"] for row in rows}) for goal in _goals(preset, rows)]
    not_run = [line for part in parts.values() for line in part.get("not_run", [])]
    rtx = parts.get("tensorrt", {}).get("rtx", "not tried")
    devices = {name: part["device"] for name, part in parts.items()}
    return {"format_version": 1, "devices": devices, "rows": rows, "summary": {"goals": goals, "rtx": rtx,
            "not_run": not_run}}  # fmt: skip


def _goals(preset: str, rows: list[Row]) -> list[Row]:
    found = {(row["way"], row["precision"], row["batch"]): row["p50_ms"] for row in rows if row["preset"] == preset}
    limits = {row["batch"]: row["limit_bytes_ms"] for row in rows
              if (row["preset"], row["way"], row["precision"]) == (preset, "tensorrt", "fp16")}  # fmt: skip

    def best(batch: int) -> float | None:
        return min((found[key] for key in found if key[0] == "tensorrt" and key[2] == batch), default=None)

    def goal(name: str, top: float | None, bottom: float | None, wanted: float, *, at_least: bool) -> Row:
        value = top / bottom if top is not None and bottom else None
        met = None if value is None else (value >= wanted if at_least else value <= wanted)
        return {"preset": preset, "goal": name, "wanted": wanted, "at_least": at_least, "measured": value, "met": met}

    eager, compiled = "torch-eager-cuda", "torch-compile-cuda"
    fp16, int8 = (found.get(("tensorrt", name, 1)) for name in ("fp16", "int8"))
    goals = [
        goal("batch 1, p50 over eager", best(1), found.get((eager, "fp32", 1)), 1 / 8, at_least=False),
        goal("batch 1, p50 over compiled", best(1), found.get((compiled, "fp32", 1)), 2 / 3, at_least=False),
        goal("batch 4096, speed over eager", found.get((eager, "fp32", 4096)), best(4096), 3.0, at_least=True),
        goal("batch 1, int8 speed over fp16", fp16, int8, 1.02, at_least=True),
    ]
    if preset == "edge":
        took = found.get(("tensorrt", "fp16", 4096))
        goals.append(goal("batch 4096, fp16, share of the bandwidth limit", limits.get(4096), took, 0.5, at_least=True))
    return goals


def show(document: Row) -> None:
    """The same figures as in the JSON."""
    print(f"{'preset':<8}{'way':<22}{'':<6}{'batch':>6}{'p50 ms':>10}{'limit ms':>10}{'windows/s':>12}{'top-1':>8}")
    for row in document["rows"]:
        limits = [row[key] for key in ("limit_bytes_ms", "limit_launches_ms") if row.get(key) is not None]
        limit = f"{max(limits):.4f}" if limits else "-"
        print(f"{row['preset']:<8}{row['way']:<22}{row['precision']:<6}{row['batch']:>6}{row['p50_ms']:>10.3f}{limit:>10}"
              f"{row['windows_per_s']:>12.0f}{row['parity']['top1_agreement']:>8.1%}")  # fmt: skip
    for item in document.get("summary", {}).get("goals", []):
        value = "not measured" if item["measured"] is None else f"{item['measured']:.3f}"
        sign = "at least" if item["at_least"] else "at most"
        print(f"{item['preset']}: {item['goal']}: {value}, goal {sign} {item['wanted']:.3f}")
    for line in document.get("summary", {}).get("not_run", document.get("not_run", [])):
        print(f"not run: {line}")


if __name__ == "__main__":
    sys.exit(main())
