"""From a network to typed ONNX graphs and engines. Imports nothing: engines are built where there is no onnx."""
