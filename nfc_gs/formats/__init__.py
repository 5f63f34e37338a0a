"""Splat files: a module for each format, and the table of them in `formats.registry`."""
