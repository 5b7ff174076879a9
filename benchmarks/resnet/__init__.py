"""A small residual network on CIFAR-10: what `conv_compression.py` trains, prunes and exports."""
