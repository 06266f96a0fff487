"""API keys with scopes, and sessions of browsers that sign in with a key."""
