"""INT8 that keeps the thresholds right: precision plan, observers, scales, Q/DQ, and the contract that binds them."""
