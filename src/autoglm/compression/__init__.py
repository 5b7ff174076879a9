"""Compression of checkpoints into bundles: recipes, quantisation, pruning, one layer at a time."""
