"""``juxtabit lut``: a latency table of a model's layers, measured on the machine it runs on."""
