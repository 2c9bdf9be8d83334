"""Checks by subsystem: facts and expectations in, findings out. Nothing here reads a host."""
