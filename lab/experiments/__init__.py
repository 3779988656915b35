"""Run experiments: sweeps over conditions, recorded campaigns, decoding of datasets."""
