"""A PyTorch network as a canonical graph."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import INPUT, OUTPUT, CanonicalGraph, CanonicalOptions, canonicalise
from drsn_edge.signals.contract import SignalContract


def export_network(
    network: torch.nn.Module,
    *,
    contract: SignalContract,
    labels: tuple[str, ...],
    options: CanonicalOptions | None = None,
) -> CanonicalGraph:
    """Trace a network with torch's exporter and bring the result into canonical form.

    Args:
        network: Takes raw windows `[batch, *contract.shape]`, gives logits `[batch, len(labels)]`; evaluation mode is
            set on a copy, the network itself is not changed.
        contract: Of its windows.
        labels: Class names.
        options: How the graph is written.

    Raises:
        InputError: The network cannot be traced, has another shape than contract and labels say, or something in it
            stays in training mode when the network is in evaluation mode.
    """
    traced = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    # Two windows: a batch of one would be taken for a fixed size.
    example = torch.zeros(2, *contract.shape)
    _ensure_evaluates(traced, contract)
    try:
        with _quiet(), torch.no_grad():
            traced(example)
            program = torch.onnx.export(
                traced,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                # Our own passes fold, so that a foreign graph goes the very same way.
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # any module may stand here, and raise anything
        raise InputError(
            "the network cannot be traced",
            got=f"{type(error).__name__}: {_first_line(error)}",
            expected=f"a module that takes windows [batch, {', '.join(map(str, contract.shape))}]",
            hint="add --debug for torch's own report, or export it to ONNX by other means and give that file",
        ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model
    if not isinstance(model, ir.Model):
        raise TypeError(f"torch.onnx.export made a {type(model).__name__}, not an onnx_ir model")
    return canonicalise(model, contract=contract, labels=labels, options=options)


def _ensure_evaluates(network: torch.nn.Module, contract: SignalContract) -> None:
    """Refuse a network that still trains somewhere, which torch's exporter writes as if it did not."""
    windows = torch.randn(4, *contract.shape, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            first, again, alone = (network(x) for x in (windows, windows, windows[:2]))
            limit = 1e-3 * float(first.abs().max())
            chance = not torch.allclose(first, again, rtol=0, atol=limit)
            company = not torch.allclose(first[:2], alone, rtol=0, atol=limit)
    except Exception:  # noqa: BLE001 - any module may stand here; what it cannot do the tracing below reports
        return
    if not first.isfinite().all():
        return
    if chance:
        raise InputError(
            "the network decides by chance in evaluation mode",
            got="other logits for the same windows a second time",
            expected="the same logits",
            hint="in forward write F.dropout(x, p, training=self.training), or use nn.Dropout",
        )
    if company:
        raise InputError(
            "the network's logits for a window depend on the other windows of the batch",
            got="other logits for two windows alone than among four",
            expected="a network in evaluation mode, with stored statistics in every BatchNorm",
            hint="do not call train() in forward, nor F.batch_norm(..., training=True) or track_running_stats=False",
        )


def _first_line(error: BaseException) -> str:
    """What torch's exporter was stopped by, not the pages of advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter logs missing torchvision operators and prints its progress; neither concerns the user."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
