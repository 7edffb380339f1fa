"""Contrastive training on expert and cached views, and its evaluation."""
