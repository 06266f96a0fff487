"""Events of applications: collection, exactly once each, and queries."""
