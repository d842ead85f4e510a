"""What one network has learned, put to use in another."""
