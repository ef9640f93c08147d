"""Faults, where they are put, and what the gates say of them: the parts of `benchmarks.fault_injection`."""
