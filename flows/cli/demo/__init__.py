"""The demos: a night on exercises that the project makes itself, on emulated endpoints or on small real models."""
