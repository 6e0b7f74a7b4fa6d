"""What a worker process runs: one module per system, imported in that system's own environment only."""
