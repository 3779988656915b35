"""Measure the receiver and the samplers against bounds, bare networks and GNU Radio's own blocks."""
