"""Super nets: relaxations, gates, and the decisions that they stand for."""
