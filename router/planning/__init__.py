"""Who answers what: the cheapest assignment that keeps the floor and every limit, how far from the best it can be, and why."""
