"""The networks of Zhao et al. (2020), their checkpoints, and the PyTorch runner."""
