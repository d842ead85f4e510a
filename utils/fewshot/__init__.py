"""Methods that learn from few examples, one file a method."""
