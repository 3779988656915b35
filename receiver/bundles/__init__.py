"""Model bundles: a folder of weights and a TOML file that says what they are."""
