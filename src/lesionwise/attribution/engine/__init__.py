"""What runs any method: the plan, the session, inputs drawn, passes through windows, and statistics of the draws."""
