"""Words and values every other layer uses: cameras, constants, errors, events, rotations, SH."""
