"""The network asked again about a changed scan: what it says of a lesion when part of the image is another.

A `Scan` is a model before an explained case; its `Probe` asks about some regions, for any number of changed inputs, and
computes only what a change can have reached (`rerun`), with normalisation statistics as they are or held (`norms`).
"""
