"""Caches made shard by shard: plan, driver, workers, lease and ledger."""
