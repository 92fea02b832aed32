"""What numbers depend on beside the configuration: code, files, numerics."""
