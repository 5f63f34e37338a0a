"""Color heads: a module for each, and the table of them in `heads.registry`, which says how to add one."""
