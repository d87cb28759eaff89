"""Lark Service: credentials of Feishu (Lark) applications, their access tokens, and messages sent in their name."""

__version__ = "0.2.0"
