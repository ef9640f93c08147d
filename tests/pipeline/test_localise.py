"""A fault in one unit is named, in graphs, in PyTorch's weights and in engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drsn_edge.bundle import GOLDEN, Bundle, graph_name
from drsn_edge.golden import Golden
from drsn_edge.pipeline import probe_engine
from drsn_edge.pipeline.hops import measure_hops
from drsn_edge.pipeline.localise import LOGITS, Localiser
from drsn_edge.pipeline.variants import Variant, Variants, open_variants
from drsn_edge.runtime.runner import open_runner

onnx = pytest.importorskip("onnx", reason="graphs are damaged with onnx")
pytest.importorskip("onnxruntime", reason="graphs run in ONNX Runtime")


class Damaged(Bundle):
    """A bundle with other content in some files."""

    def __init__(self, base: Bundle, files: dict[str, bytes]) -> None:
        super().__init__(base.path, base.manifest, base.digest)
        self.changed = files

    def read(self, name: str) -> bytes:
        return self.changed.get(name) or super().read(name)


def lose_sign(model: Any, unit: str) -> None:
    """The form of the soft threshold is gone, and with it what a unit is recognised by."""
    negate = next(node for node in model.graph.node if node.name == f"{unit}.shrinkage/Neg")
    for node in model.graph.node:
        node.input[:] = [negate.input[0] if name == negate.output[0] else name for name in node.input]


def scale_weights(model: Any, unit: str) -> None:
    """One channel of one convolution 3 % too large."""
    for item in model.graph.initializer:
        if item.name.startswith(f"{unit}.conv1.weight") and len(item.dims) > 1:
            value = onnx.numpy_helper.to_array(item).copy()
            value[0] *= np.asarray(1.03, value.dtype)
            item.CopyFrom(onnx.numpy_helper.from_array(value, item.name))
            return
    raise AssertionError(f"no weights of {unit}")


def scale_step(model: Any, unit: str) -> None:
    """One quantization step 10 % too large."""
    name = f"{unit}.conv2/Conv.input_scale"
    item = next(item for item in model.graph.initializer if item.name == name)
    value = onnx.numpy_helper.to_array(item) * np.float32(1.1)
    item.CopyFrom(onnx.numpy_helper.from_array(np.array(value, np.float32), item.name))


def turn_classes(model: Any, unit: str) -> None:
    del unit
    item = next(item for item in model.graph.initializer if item.name.startswith("fc.weight"))
    value = onnx.numpy_helper.to_array(item)
    value = np.roll(value, 1, axis=int(np.argmin(value.shape)))
    item.CopyFrom(onnx.numpy_helper.from_array(value.copy(), item.name))


@pytest.fixture(scope="module")
def opened(workshop: Any) -> tuple[Bundle, Golden]:
    bundle = Bundle.open(workshop.bundle)
    return bundle, Golden.from_bytes(bundle.read(GOLDEN))


def damage(bundle: Bundle, precision: str, how: Callable[[Any, str], None], unit: str, *, probe: bool) -> bytes:
    model = onnx.load_from_string(bundle.read(graph_name(precision, probe=probe)))
    how(model, unit)
    return bytes(model.SerializeToString())


CASES = [
    ("fp32", scale_weights, "units.1"),
    ("fp32", lose_sign, "units.0"),
    ("fp32", turn_classes, LOGITS),
    ("fp16", scale_weights, "units.1"),
    ("fp16", lose_sign, "units.1"),
    ("int8", scale_step, "units.0"),
    ("int8", scale_step, "units.1"),
    ("int8", scale_weights, "units.1"),
    ("int8", turn_classes, LOGITS),
]


@pytest.mark.parametrize(("precision", "how", "place"), CASES, ids=lambda item: getattr(item, "__name__", item))
def test_the_hop_and_the_unit_are_named(
    opened: tuple[Bundle, Golden], precision: str, how: Callable[[Any, str], None], place: str
) -> None:
    base, golden = opened
    bundle = Damaged(base, {graph_name(precision): damage(base, precision, how, place, probe=False)})
    with open_variants(bundle, engines=False) as variants:
        hops = measure_hops(bundle, golden, variants)
    first = next(hop for hop in hops if hop.status == "failed")
    assert (first.from_, first.to) == (f"recorded-{precision}", f"onnx-{precision}")
    assert first.first_divergence is not None
    assert first.first_divergence == place or first.first_divergence.startswith(f"{place}.")


def test_a_sound_bundle_diverges_nowhere(opened: tuple[Bundle, Golden]) -> None:
    bundle, golden = opened
    with open_variants(bundle, engines=False) as variants:
        assert all(hop.status == "passed" for hop in measure_hops(bundle, golden, variants))
        localiser = Localiser(bundle, golden, variants)
        for item in variants.running:
            assert localiser.locate(item.name) == LOGITS, "no unit is out of its limit"


def stand_in(monkeypatch: pytest.MonkeyPatch, plan: bytes) -> None:
    """A builder whose plans are ONNX files, which ONNX Runtime runs."""
    monkeypatch.setitem(probe_engine._BACKENDS, "onnxruntime", "rtx")
    monkeypatch.setattr(probe_engine, "load_builder", lambda options: None)
    monkeypatch.setattr(probe_engine, "wanted_graph", lambda options, trt: graph_name(options.precision))
    monkeypatch.setattr(probe_engine, "build_engine", lambda data, options: SimpleNamespace(plan=plan))


def test_an_engine_that_fails_is_asked_through_a_probe_engine(
    opened: tuple[Bundle, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, golden = opened
    stand_in(monkeypatch, damage(bundle, "fp16", lose_sign, "units.1", probe=True))
    with (
        open_variants(bundle, engines=False) as variants,
        open_runner("onnxruntime", damage(bundle, "fp16", lose_sign, "units.1", probe=False)) as runner,
    ):
        engine = Variant("engine-fp16", "onnxruntime", runner)
        (hop,) = [
            hop for hop in measure_hops(bundle, golden, Variants((*variants.items, engine))) if hop.to == "engine-fp16"
        ]
    assert hop.status == "failed"
    assert hop.first_divergence == "units.1.shrunk"


def test_without_a_builder_the_place_in_an_engine_stays_unknown(opened: tuple[Bundle, Golden]) -> None:
    bundle, golden = opened
    with (
        open_variants(bundle, engines=False) as variants,
        open_runner("onnxruntime", damage(bundle, "fp16", lose_sign, "units.1", probe=False)) as runner,
    ):
        engine = Variant("engine-fp16", "onnxruntime", runner)
        hops = measure_hops(bundle, golden, Variants((*variants.items, engine)))
    failed = [hop for hop in hops if hop.status == "failed"]
    assert [(hop.to, hop.first_divergence) for hop in failed] == [("engine-fp16", None)]


@pytest.mark.slow
def test_tensorrt_for_rtx_builds_probe_engines(opened: tuple[Bundle, Golden], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="builds engines without a GPU")
    from drsn_edge.exporters.trt_engine import build_engine

    bundle, _ = opened
    for precision in ("fp32", "fp16", "int8"):
        options = probe_engine.probe_options("tensorrt-rtx", precision, "sm86")
        made = build_engine(bundle.read(graph_name(precision, probe=True)), options=options)
        names = {tensor.spec.name for tensor in made.tensors}
        assert {"logits", "units.0.threshold", "units.1.shrunk"} <= names


def test_golden_vectors_of_the_papers_network_stay_small(make_network: Callable[..., Any]) -> None:
    """What would be recorded for twelve units and windows of 2,048 samples, of incompressible numbers."""
    network, _ = make_network(preset="paper", window=2048, classes=10)
    rng = np.random.default_rng(0)
    count, widths = 96, [4] * 4 + [8] * 4 + [16] * 4
    forms = ("onnx-fp32", "onnx-fp16", "onnx-int8", "onnx-int8-fp32")

    def random(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    assert len(network.units) == len(widths)
    golden = Golden(
        random(count, 1, 2048), np.zeros(count, np.int64), random(count),
        {name: random(count, 10) for name in ("pytorch", *forms)},
        {f"units.{index}": random(count, width) for index, width in enumerate(widths)},
        {
            f"{form}/units.{index}.{what}": random(count, width)
            for form in forms for index, width in enumerate(widths) for what in ("threshold", "sketch")
        },
    )  # fmt: skip
    data = golden.to_bytes()
    assert len(data) < 2_000_000
    again = Golden.from_bytes(data)
    assert set(again.probes_of("onnx-int8")) == {
        f"units.{index}.{what}" for index in range(12) for what in ("threshold", "sketch")
    }
