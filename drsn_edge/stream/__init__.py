"""From sensor to decision: sources, rings, windows, smoothing, drift, outputs. NumPy only."""
