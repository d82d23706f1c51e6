"""Small sources to try everything on, one for each migration."""
