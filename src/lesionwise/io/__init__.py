"""Files: NIfTI images, BIDS names and folders, whole-file writes."""
