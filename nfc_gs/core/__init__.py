"""What every other layer uses: cameras, rotations, SH, constants, errors, events, files."""
