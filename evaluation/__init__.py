"""How well a model draws, describes and edits the world, as a small detector of its own judges it."""
