"""A compiler for language models: PyTorch in, transformed graphs through, readable generated code out."""

__version__ = "0.1.0"
