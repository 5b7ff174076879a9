"""Trains the reader (needs the `train` extra): `python -m autoglm.lite.reader_training`."""
