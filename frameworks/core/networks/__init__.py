"""Networks as searches take them: plain weights, plain calls, every parameter accounted for."""
