"""What may leave the device and what is kept on it encrypted."""
