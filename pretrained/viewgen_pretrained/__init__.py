"""Networks for view generation: their weights and their training."""
