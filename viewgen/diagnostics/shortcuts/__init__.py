"""Shortcuts of contrastive losses: limits, lifted optima and their curvature."""
