"""Search of the item index by FAISS."""
