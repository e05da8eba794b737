"""Parts that several learners share: exemplars, prototypes, importance of weights, heads."""
