"""Training code of LITE, the embedded bilingual model (needs the `train` extra).

Stages, each a module run as `python -m autoglm.lite.<stage>`: tokenizer, pack, train, export,
sample. The data directory is always an option; nothing here is imported by the runtime.
"""
