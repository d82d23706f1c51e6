"""The commands, thin: what they do is done by a job, or by the room that knows how."""
