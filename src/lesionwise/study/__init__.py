"""Thousands of scans: which units of work there are, where they run, and what the cohort says together."""
