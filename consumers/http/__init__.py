"""The HTTP face of the service: Starlette and msgspec in front of a `Service`."""
