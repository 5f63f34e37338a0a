"""From a model and a camera to a picture."""
