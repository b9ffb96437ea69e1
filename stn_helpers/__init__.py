"""Spatial transformer networks: what the notebooks derive, ready to import.

An image walks through the files in this order:
theta -> grid -> sampler -> transformer -> classifiers -> data -> training -> studies -> runner, with plots on the side.
"""

__version__ = "0.1.0"
