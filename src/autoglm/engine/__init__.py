"""Engines: everything that answers a request, and what turns text into tokens and back."""
