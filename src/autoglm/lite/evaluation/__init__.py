"""Measures a model on public tasks the way its users run it: text in, text out."""
