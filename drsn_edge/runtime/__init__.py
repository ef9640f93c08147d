"""Running networks: one class per backend, CUDA, and what can be known of a plan before it is loaded. No torch, no onnx."""

from drsn_edge.runtime.runner import RUNNERS, Runner, TensorSpec, open_runner, run_batched

__all__ = ["RUNNERS", "Runner", "TensorSpec", "open_runner", "run_batched"]
