"""Users' stored histories, apart from bundles: fresh events change no bundle and no cached prefix."""
