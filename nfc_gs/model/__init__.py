"""The trainable scene: Gaussians and what colors them."""
