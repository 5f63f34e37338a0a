"""Readers of captures: a module for each format, and the table of them in `readers.registry`."""
