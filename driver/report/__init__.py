"""The report of a compile, for people."""
