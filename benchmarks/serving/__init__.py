"""Parts of bench_serve.py: clients, what is measured, and how it is told."""
