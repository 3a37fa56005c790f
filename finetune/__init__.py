"""Fine-tune ImageNet backbones on your own photos, and find out honestly which way of doing it is best."""

__version__ = "0.1.0"
