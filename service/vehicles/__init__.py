"""Look-ups of vehicles by their VIN: decoded by vPIC, and cached in the database."""
