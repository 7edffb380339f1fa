"""Import of foreign checkpoints, without running anything in them."""
