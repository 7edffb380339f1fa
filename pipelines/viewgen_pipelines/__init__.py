"""Work on many processes: caches made shard by shard, measurements, the gallery."""
