"""Changing a host: plans that can be read beforehand, one sh program that applies them, and the way back."""
