"""A library that answers over HTTP and MCP."""
