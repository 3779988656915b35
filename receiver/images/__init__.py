"""Read images as they are meant to be seen."""
