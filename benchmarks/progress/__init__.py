"""What a run says while it goes on: on a terminal, in a file, and how long it will take."""
