"""LITE, the embedded bilingual model: its reader, and the code that trains both.

Stages of training, each a module run as `python -m autoglm.lite.<stage>` (extra `train`):
tokenizer, pack, train, export, sample, reader_training. The data directory is always an option.
The runtime imports `reader` only.
"""
