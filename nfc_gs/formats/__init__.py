"""Splat files: one module for each format, and one table of them."""
