"""From a capture on disk to `SceneData`."""
