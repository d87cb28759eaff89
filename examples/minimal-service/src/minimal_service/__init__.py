"""The smallest web service that can be deployed: no broker, a database only if it is told of one."""

__version__ = "0.1.0"
