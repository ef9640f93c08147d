"""What may be in an ONNX file, looked at without onnx: weights inside, or in other files that it names.

A graph may say that its weights lie in a file of any path, and every reader would open it. No graph of a bundle does,
and foreign ones must not: one file is what is hashed, copied and checked.

Source: onnx.proto of ONNX, and the wire format of Protocol Buffers.
"""

from __future__ import annotations

from drsn_edge.errors import InputError

# message -> field number -> message of that field: the ways from a model to its tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}  # fmt: skip
_NAME, EXTERNAL_DATA, DATA_LOCATION = 8, 13, 14
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_DEEPEST = 64


def refuse_external_data(data: bytes, *, what: object = "the graph") -> None:
    """Refuse a graph whose weights are in other files, and bytes that are no Protocol Buffers at all.

    Args:
        data: The file.
        what: Names it in messages.

    Raises:
        InputError: It is such.
    """
    try:
        name = _external(memoryview(data), "ModelProto", 0)
    except (ValueError, IndexError) as error:
        raise InputError(
            "this is no ONNX file", got=f"{what}: {error}", expected="a serialised ModelProto, whole and in one piece",
            hint="copy or export it again",
        ) from None  # fmt: skip
    if name is not None:
        raise InputError(
            "the graph keeps its weights in another file",
            got=f"{what}: tensor {name!r}",
            expected="one file with everything in it",
            hint="onnx.save(onnx.load(FILE), NEW_FILE) joins them",
        )


def _external(data: memoryview, message: str, depth: int) -> str | None:
    """Name of the first tensor that lies elsewhere."""
    if depth > _DEEPEST:
        raise ValueError("graphs within graphs without end")
    position, elsewhere, name = 0, False, ""
    while position < len(data):
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            elsewhere |= message == "TensorProto" and field == DATA_LOCATION and value == 1
        elif kind == _BYTES:
            size, position = _varint(data, position)
            inner = data[position : position + size]
            position += size
            if len(inner) != size:
                raise ValueError(f"a field of {size} bytes, {len(inner)} are left")
            if message == "TensorProto":
                elsewhere |= field == EXTERNAL_DATA
                name = bytes(inner[:80]).decode(errors="replace") if field == _NAME else name
            elif field in MESSAGES[message]:
                found = _external(inner, MESSAGES[message][field], depth + 1)
                if found is not None:
                    return found
        elif kind in (_FIXED_64, _FIXED_32):
            position += 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if position > len(data):
            raise ValueError("it is cut off")
    return (name or "without a name") if elsewhere else None


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without end")
