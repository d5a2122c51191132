"""Triage: which predicted lesions are probably false, judged by how the network saw them."""
