"""Training after pruning: a smaller model learns to answer like its whole one."""
