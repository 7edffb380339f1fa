"""W-search: codes at a chosen distance from their anchor in the encoder's space, spread apart."""
