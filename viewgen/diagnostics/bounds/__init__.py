"""Bounds on the downstream error of a contrastive encoder, each with its terms."""
