"""Finds answers in a text by small trained scorers: NumPy only, milliseconds, nothing invented."""
