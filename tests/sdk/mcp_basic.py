"""Initialize, list, call, progress, resources and prompts with the official mcp client, in the era that MODE names."""

import asyncio
import json
import os

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from common import API_KEY, GATEWAY, check, done

URL = f"{GATEWAY}/mcp/{os.environ['CONNECTOR']}/{os.environ['SERVICE']}"
MODE = os.environ.get("MODE", "auto")


async def main():
    http = httpx2.AsyncClient(headers={"x-culvert-key": API_KEY}, timeout=30)
    async with http, Client(streamable_http_client(URL, http_client=http), mode=MODE) as client:
        expected = "2025-11-25" if MODE == "legacy" else "2026-07-28"
        check(client.protocol_version == expected, f"the protocol version of {MODE}", client.protocol_version)
        names = sorted(tool.name for tool in (await client.list_tools()).tools)
        check({"add", "echo", "headers", "slow"} <= set(names), "the tools", names)

        echoed = await client.call_tool("echo", {"text": "täglich 💧"})
        check(echoed.content[0].text == "täglich 💧" and not echoed.is_error, "echo", echoed)
        added = await client.call_tool("add", {"a": 40, "b": 2})
        check(added.content[0].text == "42", "add", added)

        steps = []

        async def on_progress(progress, total, message):
            steps.append((progress, total, message))

        slow = await client.call_tool("slow", {"steps": 4, "step_ms": 50}, progress_callback=on_progress)
        check(slow.content[0].text == "done after 4 steps", "slow", slow)
        check([step[0] for step in steps] == [1, 2, 3, 4], "progress in order", steps)

        seen = json.loads((await client.call_tool("headers", {})).content[0].text)
        names = {name.lower() for name, _ in seen["headers"]}
        check(not any(name.startswith("x-culvert") for name in names), "no header of ours reaches the server", names)
        check(API_KEY not in json.dumps(seen), "the gateway's key never reaches the server")

        uris = [str(resource.uri) for resource in (await client.list_resources()).resources]
        check("fixture://notes/culvert" in uris, "the resources", uris)
        text = (await client.read_resource("fixture://notes/culvert")).contents[0].text
        check("stream under a road" in text, "the resource", text)
        prompt = await client.get_prompt("greet", {"name": "Ada"})
        check("Ada" in prompt.messages[0].content.text, "the prompt", prompt)
        failed = None
        try:
            result = await client.call_tool("nothing", {})
            failed = result.is_error
        except Exception as error:  # noqa: BLE001 - a protocol error is as good as an error result
            failed = error
        check(failed, "an unknown tool fails", failed)


asyncio.run(main())
done(f"mcp_basic {MODE}")
