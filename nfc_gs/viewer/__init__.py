"""The viewer: a splat in the browser, while it trains and after."""
