"""Channel estimation: pilots to taps, priors on taps, taps given the symbols."""
