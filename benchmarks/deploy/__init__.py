"""From a network and images without labels to a file: what a practitioner asks for."""
