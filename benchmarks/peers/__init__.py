"""Other engines measured beside ours: their environment, their models, and how they are run."""
