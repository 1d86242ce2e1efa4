"""The models and prices that are known on this machine, and updates of them."""
