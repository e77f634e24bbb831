"""Benchmarks: one question per file, stated in its first line. Needs the extra ``bench`` (PyTorch, the peer)."""
