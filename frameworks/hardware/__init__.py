"""Hardware targets, one file each."""
