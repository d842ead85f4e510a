"""Learning without forgetting: a file a method, which is what it keeps between tasks and what it adds to the loss."""
