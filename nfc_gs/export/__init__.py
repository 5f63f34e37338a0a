"""What is made of a run for people to look at: videos, camera paths, the report."""
