"""Initialize, list and call with the official client of the old HTTP+SSE transport."""

import asyncio
import os

from mcp import Client
from mcp.client.sse import sse_client

from common import API_KEY, GATEWAY, check, done

URL = f"{GATEWAY}/mcp/{os.environ['CONNECTOR']}/old"


async def main():
    async with Client(sse_client(URL, headers={"x-culvert-key": API_KEY}), mode="legacy") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        check(names == ["add"], "the tools", names)
        for number in range(20):
            added = await client.call_tool("add", {"a": 40, "b": number})
            check(added.content[0].text == str(40 + number), "add", added)


asyncio.run(main())
done("mcp_sse")
