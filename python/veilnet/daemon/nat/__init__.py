"""Through translators: calls that open a direct path, and the silences that keep it open."""
