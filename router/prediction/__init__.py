"""How likely an endpoint is right on a request, learnt from scored answers."""
