"""The cloud side: rounds of synchronisation over PostgreSQL, and answers of a larger model."""
