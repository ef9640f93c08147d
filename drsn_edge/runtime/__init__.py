"""Running networks: one class per backend, CUDA, and what a plan says of itself. Never torch, never onnx."""

from drsn_edge.runtime.runner import RUNNERS, Runner, TensorSpec, open_runner, run_batched

__all__ = ["RUNNERS", "Runner", "TensorSpec", "open_runner", "run_batched"]
