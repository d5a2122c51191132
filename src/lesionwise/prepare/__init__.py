"""From the scanner's files to a scan that can be explained: aligned, brain-extracted, bias-corrected, quality told.

`prepare_scan` does one scan in memory; `PrepareTask` and `prepare_cohort` do files of a data set (docs/prepare.md).
"""
