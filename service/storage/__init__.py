"""What events and vehicles keep: the database, its migrations, its failures."""
