"""From the environment to settings, and from settings to databases that answer."""
