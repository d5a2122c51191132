"""The published experiments, each a pure function of (model, case, instances) to rows plus a group step."""
