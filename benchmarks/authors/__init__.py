"""For authors of methods: a package of one's own to begin with."""
