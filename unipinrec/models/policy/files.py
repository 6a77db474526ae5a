"""The name of the graph in the policy's folder of a bundle; the card beside it is `card.CARD`."""

GRAPH = "policy.onnx"
