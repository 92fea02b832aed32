"""A network's graph, and the codes that its tensors hold."""
