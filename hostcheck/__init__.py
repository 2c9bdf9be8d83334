"""hostcheck: audit, tune and measure GPU hosts."""

__version__ = "0.1.0"
