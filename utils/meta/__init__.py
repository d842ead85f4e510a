"""Learning to adapt: one file a method."""
