"""Parts that models are built of."""

from unipinrec.models.common.vector_math import warm_up

# Here, since no process computes anything before it has imported a part of a model.
warm_up()
