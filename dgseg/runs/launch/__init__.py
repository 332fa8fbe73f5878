"""Recipes placed on machines: in this process, under torchrun, on a Ray cluster."""
