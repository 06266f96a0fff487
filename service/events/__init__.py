"""Events of client applications: collected once each, kept, and asked for."""
