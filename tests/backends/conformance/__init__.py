"""The conformance suite: what a backend has to do, as tests that any backend can be put to.

    pytest --pyargs llmc.conformance                         every registered backend that can run here
    pytest --pyargs llmc.conformance --backend mine          one of them; repeatable
    pytest --pyargs llmc.conformance --backend my.module:MyBackend    one that is not registered
    python -m llmc.conformance --backend mine                a page of what it runs and what it refuses

It needs the extra `llmc[conformance]`. Every op of the dialect is required; what a backend refuses counts as a failure.
Weights in formats that are not in `Backend.formats` reach it as float32, and `Backend.lacks` has to say why.
"""
