"""A run over HTTP: the network, its batches, the routes and the page. Needs the extra ``serve``."""
