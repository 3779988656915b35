"""Metrics that others report: LPIPS, DISTS, NIQE, distances of sets of features, and what detail and grids remain.

`registry` lists them. Those with networks read files that `make metrics` fetches (see `fetch`) into a cache folder
(see `files`); everything else works without.
"""
