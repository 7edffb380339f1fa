"""Import of third-party checkpoints, without executing their code."""
