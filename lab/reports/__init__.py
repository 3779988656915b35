"""Draw figures and write reports from the files that a run has left."""
