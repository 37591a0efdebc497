"""A server of the old HTTP+SSE transport, of the official SDK: prints its port, and serves until it is killed."""

import json
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("old")


@server.tool()
def add(a: int, b: int) -> str:
    return str(a + b)


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
config = uvicorn.Config(server.sse_app(), log_level="warning")
uvicorn.Server(config).run(sockets=[listener])
