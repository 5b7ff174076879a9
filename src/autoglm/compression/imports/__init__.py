"""Models that others have compressed, read as if they were float checkpoints."""
