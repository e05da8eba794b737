"""What several learners are built from: exemplars, prototypes, importance of weights."""
