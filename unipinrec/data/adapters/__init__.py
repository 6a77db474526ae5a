"""Public datasets in their official file formats, each to a prepared dataset."""
