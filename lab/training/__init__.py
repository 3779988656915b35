"""Train the shipped models: codecs, priors, symbol statistics, error networks."""
