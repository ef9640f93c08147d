"""Graph passes, one per file, each an `onnx_ir.passes.InPlacePass` with the Given and the Result in its docstring."""
