"""The one command over all nodes: the only package that imports several of them."""
