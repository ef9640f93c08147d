"""One way through an engine: a stream, its buffers, and a context with its CUDA graph for every shape in use.

What TensorRT allows decides how graphs are kept. A graph is bound to the state of the execution context that it was
captured from, shapes included, so each kept graph has a context of its own. Contexts of one engine can share its
profile from TensorRT 10 on, and with 8.6 when the engine was built with profile sharing (`drsn-edge build` asks for
it); where they cannot, there is one context, and another shape is captured anew.

The first call with a shape runs plainly (TensorRT finishes its preparations for a shape then, which must not be
captured), the second is captured, later ones launch the graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError
from drsn_edge.runtime.cuda import Graph, Stream, TransferBuffer, capture
from drsn_edge.runtime.runner import TensorSpec
from drsn_edge.runtime.trt_log import MessageLog, error_text

Limits = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass
class _Slot:
    """An execution context, the shapes that it is bound to, and the graph that was captured for them."""

    context: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    graph: Graph | None = None
    warm: bool = False

    def drop_graph(self) -> None:
        self.warm = False
        if self.graph is not None:
            graph, self.graph = self.graph, None
            graph.close()


class Lane:
    """Runs calls one after another.

    Everything is allocated on creation, for the largest shapes of the profile; a call with a shape in use allocates
    nothing on the GPU.

    Args:
        make_context: A new execution context with a profile, or None where the engine has no other to give.
        inputs, outputs: The engine's tensors.
        limits: Smallest and largest shape of every input.
        mapped: CPU and GPU share memory.
        graphs: How many shapes may have a graph at a time; the one that was used longest ago gives way. 0: no graphs.
        log: What TensorRT says.

    Raises:
        DrsnError: No context, or no memory.
    """

    def __init__(
        self,
        make_context: Callable[[Stream], Any],
        *,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        limits: Limits,
        mapped: bool,
        graphs: int,
        log: MessageLog,
    ) -> None:
        self._make_context = make_context
        self._inputs, self._outputs, self._limits = inputs, outputs, limits
        self._graphs, self._most, self._log = graphs, max(graphs, 1), log
        self._buffers: dict[str, TransferBuffer] = {}
        self._slots: OrderedDict[tuple[tuple[int, ...], ...], _Slot] = OrderedDict()
        self._spare: _Slot | None = None
        self.stream = Stream()
        try:
            context = make_context(self.stream)
            if context is None:
                raise DrsnError(
                    "the engine has no other execution context to give",
                    got="a context that finds its profile taken",
                    expected="an engine whose profile can be shared: TensorRT 10 and later, or built for it",
                    hint="streams=1, or build the engine anew: drsn-edge build BUNDLE",
                )
            slot = _Slot(context)
            self._bind(slot, {name: largest for name, (_, largest) in limits.items()})
            for spec in (*inputs.values(), *outputs.values()):
                self._buffers[spec.name] = TransferBuffer(_size(slot, spec), mapped=mapped)
            self._connect(context)
            self._spare = slot
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, NDArray[Any]], *, copy: bool = True) -> dict[str, NDArray[Any]]:
        """Run once and wait for it.

        Args:
            feeds: By name; checked against the specs.
            copy: Return arrays of the caller's own, and not the buffers, which the next call writes over.

        Raises:
            InputError: A shape outside of the profile.
        """
        slot = self._slot(feeds)
        for name, value in feeds.items():
            self._buffers[name].view(self._inputs[name].dtype, value.shape)[...] = value
        if slot.graph is None and slot.warm and self._graphs:
            with capture(self.stream) as graph:
                self._enqueue(slot)
            slot.graph = graph
        if slot.graph is not None:
            slot.graph.launch(self.stream)
        else:
            self._enqueue(slot)
            slot.warm = True
        self.stream.synchronize()
        views = {name: self._buffers[name].view(spec.dtype, slot.shapes[name]) for name, spec in self._outputs.items()}
        return {name: view.copy() for name, view in views.items()} if copy else views

    def _slot(self, feeds: Mapping[str, NDArray[Any]]) -> _Slot:
        """The slot of these shapes: the one that has them, a new one, or the one that was used longest ago."""
        key = tuple(feeds[name].shape for name in self._inputs)
        if key in self._slots:
            self._slots.move_to_end(key)
            return self._slots[key]
        slot, self._spare = self._spare, None
        if slot is None and len(self._slots) < self._most:
            context = self._make_context(self.stream)
            if context is None:
                self._most = len(self._slots)  # this engine's profile is not shared: no use in asking again
            else:
                self._connect(context)
                slot = _Slot(context)
        if slot is None:
            _, slot = self._slots.popitem(last=False)
        self._spare = slot  # it is not lost, should binding fail
        slot.drop_graph()
        self._bind(slot, {name: feeds[name].shape for name in self._inputs})
        self._spare, self._slots[key] = None, slot
        return slot

    def _bind(self, slot: _Slot, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set the shapes of the inputs; learn those of the outputs."""
        slot.shapes = {}  # none, should this fail half-way
        context = slot.context
        with self._log.record() as said:
            for name, shape in shapes.items():
                smallest, largest = self._limits[name]
                inside = all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))
                if not inside or not context.set_input_shape(name, shape):
                    raise InputError(
                        f"input {name} is outside of the engine's profile",
                        got=list(shape),
                        expected=f"{list(smallest)} to {list(largest)}",
                        hint="run it in pieces (run_batched), or build the engine for other batches",
                    )
            unknown = context.infer_shapes()
            if unknown:
                raise DrsnError("TensorRT cannot derive shapes", got=f"{unknown}: {error_text(said)}")
        slot.shapes = {**shapes, **{name: tuple(context.get_tensor_shape(name)) for name in self._outputs}}

    def _connect(self, context: Any) -> None:
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.device):
                raise DrsnError("TensorRT does not take a buffer", got=name, expected="an address for every tensor")

    def _enqueue(self, slot: _Slot) -> None:
        context = slot.context
        for name, spec in self._inputs.items():
            self._buffers[name].to_device(_size(slot, spec), self.stream)
        with self._log.record() as said:
            if not context.execute_async_v3(int(self.stream)):
                raise DrsnError("TensorRT cannot run the engine", got=error_text(said))
        for name, spec in self._outputs.items():
            self._buffers[name].to_host(_size(slot, spec), self.stream)

    def close(self) -> None:
        """Give everything back; may be called twice."""
        for slot in (*self._slots.values(), *([self._spare] if self._spare is not None else [])):
            slot.drop_graph()
            slot.context = None  # before its engine
        self._slots.clear()
        self._spare = None
        while self._buffers:
            self._buffers.popitem()[1].close()
        self.stream.close()


def _size(slot: _Slot, spec: TensorSpec) -> int:
    """Bytes of a tensor at the bound shapes."""
    return int(np.prod(slot.shapes[spec.name], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
