"""Storage: the database with its migrations, Redis, and caches in memory."""
