"""A stand-in for the Feishu (Lark) Open API. It is not Feishu; every answer says so in the header X-Stand-In."""

__version__ = "0.1.0"
