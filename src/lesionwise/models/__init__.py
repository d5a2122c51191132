"""Networks: the built-in ones and loaders for those people already have; loaders are strangers to one another."""
