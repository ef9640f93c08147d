"""Recordings, contracts, windows, noise, splits and data sets. NumPy only; readers import their own packages."""
