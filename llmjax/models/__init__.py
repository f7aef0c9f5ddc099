"""Models as pure functions, and their presets."""
