"""A stream that is cut in the middle of a call: the official mcp client comes back for the rest, and nothing is done twice."""

import asyncio
import os

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from common import API_KEY, check, done


async def main():
    steps = []

    async def on_progress(progress, total, message):
        steps.append(progress)

    http = httpx2.AsyncClient(headers={"x-culvert-key": API_KEY}, timeout=30)
    async with http, Client(streamable_http_client(os.environ["MCP_URL"], http_client=http), mode="legacy") as client:
        slow = await client.call_tool("slow", {"steps": 10, "step_ms": 500}, progress_callback=on_progress)
        check(slow.content[0].text == "done after 10 steps", "the answer after the cut", slow)
        # The server's library begins with the last event that had arrived.
        check(list(dict.fromkeys(steps)) == list(range(1, 11)), "all of the progress, in order", steps)
        check(len(steps) <= 11, "nothing else twice", steps)


asyncio.run(main())
done("mcp_resume")
