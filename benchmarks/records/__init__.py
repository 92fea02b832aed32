"""Records: what they hold, where they lie, and what is believed of a file."""
