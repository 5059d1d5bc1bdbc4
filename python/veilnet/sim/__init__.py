"""The evaluation of path policies: traces, environments, experiments, a Gymnasium adapter."""
