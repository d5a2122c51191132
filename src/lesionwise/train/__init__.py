"""Training the paper's three networks on a BIDS data set (METHOD section 6)."""
