"""The trainable scene: Gaussians and what colours them."""
