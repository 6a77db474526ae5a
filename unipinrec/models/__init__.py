"""Models, each a folder over common parts."""

from unipinrec.models.common.vector_math import settle

# Here, since no process computes anything before it has imported a model.
settle()
