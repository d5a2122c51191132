"""Figures: described once as data, drawn for print and for the page, in one palette."""
