"""Measuring a host: benchmarks in child processes, with the conditions under which each number came about."""
