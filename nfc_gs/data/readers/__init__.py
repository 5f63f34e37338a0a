"""Readers of captures: one module for each format."""
