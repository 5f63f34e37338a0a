"""The commands of `nfc-gs`: one dataclass each, whose fields are its options and whose `run` does the work."""
