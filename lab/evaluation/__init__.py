"""Score decoded images against the originals; no decoder may import anything of it."""
