"""From an ONNX file to what a builder builds: network and profile. TensorRT 8.5 to 11 and RTX."""

from __future__ import annotations

from typing import Any

from drsn_edge.errors import BuildError, InputError
from drsn_edge.exporters.trt_types import EngineOptions, EngineTensor
from drsn_edge.runtime.trt_log import Message, error_text
from drsn_edge.runtime.trt_tensors import tensor_spec


def network_flags(trt: Any, *, strongly_typed: bool) -> dict[str, int]:
    """Creation flags by name, with their bits."""
    flag = trt.NetworkDefinitionCreationFlag
    flags = {}
    if hasattr(flag, "EXPLICIT_BATCH"):  # 8.x insists on it, 10.x ignores it, later ones do not have it
        flags["EXPLICIT_BATCH"] = 1 << int(flag.EXPLICIT_BATCH)
    # Where weak typing is gone the flag is deprecated and always on.
    if strongly_typed and hasattr(trt.BuilderFlag, "FP16"):
        flags["STRONGLY_TYPED"] = 1 << int(flag.STRONGLY_TYPED)
    return flags


def parse_onnx(trt: Any, network: Any, logger: Any, onnx: bytes, said: list[Message]) -> None:
    """Fill a network from an ONNX file.

    Raises:
        InputError: Not an ONNX file.
        BuildError: A node that TensorRT does not take; the message names it.
    """
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx) and network.num_inputs and network.num_outputs:
        return
    problems = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if error.code().name == "MODEL_DESERIALIZE_FAILED":
            raise InputError("the graph is not ONNX", got=f"{len(onnx)} bytes: {error.desc()}", expected="an ONNX file")
        # 8.x knows the number of the node only.
        name = error.node_name() if hasattr(error, "node_name") else ""
        kind = error.node_operator() if hasattr(error, "node_operator") else ""
        node = f"node {name} ({kind})" if name else f"node number {error.node()}"
        problems.append(f"{node}: {error.desc()}")
    if not problems and not network.num_inputs:
        raise InputError("the graph is empty", got=f"{len(onnx)} bytes without inputs", expected="an ONNX file")
    raise BuildError(
        f"{trt.__name__} {trt.__version__} does not take the graph",
        got="; ".join(problems) or error_text(said),
        expected="operators that its ONNX parser knows",
        hint="export with --opset 17, the newest that every supported TensorRT reads",
    )


def describe_tensors(network: Any, options: EngineOptions) -> tuple[EngineTensor, ...]:
    """Inputs and outputs, with the shapes of the profile for inputs of free batch.

    Raises:
        BuildError: An input with another free axis than the batch.
    """
    tensors = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        spec = tensor_spec(tensor.name, tensor.dtype, tensor.shape)
        sizes = tuple(tensor.shape)
        if any(size < 0 for size in sizes[1:]):
            raise BuildError(
                f"input {spec.name} has a free axis besides the batch",
                got=spec,
                expected="a free first axis and fixed others",
                hint="export the network for one window length",
            )
        profile = None
        if sizes and sizes[0] < 0:
            batches = options.min_batch, options.opt_batch, options.max_batch
            smallest, best, largest = ((batch, *sizes[1:]) for batch in batches)
            profile = smallest, best, largest
        tensors.append(EngineTensor(spec=spec, mode="input", profile=profile))
    for index in range(network.num_outputs):
        tensor = network.get_output(index)
        tensors.append(EngineTensor(spec=tensor_spec(tensor.name, tensor.dtype, tensor.shape), mode="output"))
    return tuple(tensors)


def add_profile(builder: Any, config: Any, tensors: tuple[EngineTensor, ...]) -> None:
    """One optimisation profile over the batch of every input of free batch."""
    dynamic = [tensor for tensor in tensors if tensor.profile is not None]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        assert tensor.profile is not None
        profile.set_shape(tensor.spec.name, *tensor.profile)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(
            "TensorRT does not take the optimisation profile",
            got="; ".join(f"{tensor.spec.name} {tensor.profile}" for tensor in dynamic),
            expected="shapes that the graph can have",
        )


def keep_fp32(trt: Any, network: Any) -> tuple[str, ...]:
    """Hold a weakly typed network's delicate layers in FP32; their names.

    1. Whatever stands before the first convolution: the signal contract's arithmetic on raw samples, whose squares
       leave the range of FP16 at 256.
    2. Every mean: the sum of a long window does as well, and thresholds are made of it.

    Typed graphs say the same by their casts.
    """
    kinds = trt.LayerType
    arithmetic = {kinds.ELEMENTWISE, kinds.UNARY, kinds.REDUCE, kinds.ACTIVATION, kinds.SCALE, kinds.POOLING}
    pinned = []
    before = True
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        before = before and layer.type != kinds.CONVOLUTION
        delicate = layer.type == kinds.REDUCE or (before and layer.type in arithmetic)
        if delicate and layer.get_output(0).dtype == trt.DataType.FLOAT:
            layer.precision = trt.DataType.FLOAT
            layer.set_output_type(0, trt.DataType.FLOAT)
            pinned.append(layer.name)
    return tuple(pinned)
