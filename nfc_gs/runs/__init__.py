"""A run on disk: the names of its files, checkpoint, history, metrics, and how it is opened again."""
