"""Whether two executions of one network decide alike: ledger, decisions, drift, tolerances, the gate. NumPy only."""
