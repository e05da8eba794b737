"""How trials run: Ray, Tune, Train, and what happens inside a trial."""
