"""Built-in datasets: each module registers its loaders with `benchmarks.data.load`."""
