"""What a lab does around the link: evaluation, experiments, training, reports, benchmarks."""
