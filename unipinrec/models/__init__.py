"""Models, each a folder over common parts."""

from unipinrec.models.common.vector_math import warm_up

# Here, since no process computes anything before it has imported a model.
warm_up()
