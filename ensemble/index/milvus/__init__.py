"""The item index in Milvus, for catalogues beyond one host."""
