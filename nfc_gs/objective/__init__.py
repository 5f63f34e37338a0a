"""What training minimises and evaluation measures."""
