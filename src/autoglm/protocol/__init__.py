"""The messages of the wire, generated from proto/autoglm/v1 by `make proto`."""
