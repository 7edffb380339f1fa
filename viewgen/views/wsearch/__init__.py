"""W-search: codes at a set distance from their anchor in the encoder's space, spread out."""
