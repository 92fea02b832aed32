"""The juxtaposition table's parts: gathering, statistics by group, and one file a format."""
