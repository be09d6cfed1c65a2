"""Low-rank factorisation of linear layers, as a plugin of llmc."""
