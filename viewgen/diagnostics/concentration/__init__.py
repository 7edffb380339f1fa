"""Concentration of augmented data: how near the views of a class come to each other."""
