"""The command line: a thin typed shell around the Python interface."""
