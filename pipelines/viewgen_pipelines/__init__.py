"""Shard-wise execution of view generation: steps, executors, leases and ledgers."""
