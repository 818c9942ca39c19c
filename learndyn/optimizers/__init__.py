"""What torch.optim lacks: schedules that are functions of the step, and update rules as pure functions."""
