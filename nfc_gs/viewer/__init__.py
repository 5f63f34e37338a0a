"""The viewer: a splat in the browser, while it trains and after."""

HOST, PORT = "127.0.0.1", 8080
"""Where the page is unless one says otherwise: on this machine alone, at the first free port from here on."""
