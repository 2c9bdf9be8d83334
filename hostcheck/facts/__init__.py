"""Facts by subsystem: their probes, their parsers, and the typed values."""
