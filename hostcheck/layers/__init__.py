"""Expectation layers: TOML files, named by kind and name."""
