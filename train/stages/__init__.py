"""One short file a stage; `train.recipe` runs them in order."""
