"""The built-in captures: scenes that a ray caster draws."""
