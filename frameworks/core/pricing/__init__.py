"""What hardware targets share: cost files, measured tables, supported bits."""
