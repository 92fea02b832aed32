"""Taking a network in: what is in it, what must be written out, what each weight belongs to."""
