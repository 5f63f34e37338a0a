"""Everything written for others to open: PLY, video, report."""
