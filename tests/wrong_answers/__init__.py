"""Wrong answers to the exercises, a module a chapter: ``MISTAKES`` are lists of functions by the exercise's name."""
