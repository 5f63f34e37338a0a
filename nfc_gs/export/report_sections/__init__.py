"""The sections of the report, one a file: `section(run) -> Section`, empty where the run has nothing for it."""
