"""The conformance suite: what a backend has to do, as tests that any backend can be put to.

    pytest --pyargs llmc.conformance                         every registered backend that can run here
    pytest --pyargs llmc.conformance --backend mine          one of them; repeatable
    pytest --pyargs llmc.conformance --backend my.module:MyBackend    one that is not registered
    python -m llmc.conformance --backend mine                a page of what it runs and what it refuses

It needs the extra `llmc[conformance]`. Every op of the dialect in float32 and `linear` in int8 are required. What else a
backend refuses counts as a failure, unless `Backend.lacks` says that the hardware has no such type.
"""
