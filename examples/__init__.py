"""Applications that publish with fastcable."""
