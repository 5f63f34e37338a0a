"""Accelerated operations: the compiled CPU core, the GPU kernels, and which of them a device uses."""
