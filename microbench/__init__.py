"""Benchmarks by subsystem. Empty until `hostcheck bench` is there."""
