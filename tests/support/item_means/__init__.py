"""A model as small as one can be: the mean of a history's items is what retrieves."""
