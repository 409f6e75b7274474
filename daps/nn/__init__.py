"""Network parts: transformer blocks, image and sequence stems and heads. They know nothing of methods."""
