"""Lesions as instances: components, matching with the reference, control regions."""
