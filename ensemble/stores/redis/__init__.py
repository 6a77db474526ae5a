"""Histories in Redis or Valkey, which servers of many hosts share."""
