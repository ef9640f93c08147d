"""Training: the schedule, the noise, the loop, its state, and scoring."""
