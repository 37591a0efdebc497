"""Sampling, elicitation, logs and subscriptions with the official mcp client, in the era that MODE names."""

import asyncio
import os
import warnings

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from common import API_KEY, GATEWAY, check, done

URL = f"{GATEWAY}/mcp/{os.environ['CONNECTOR']}/{os.environ['SERVICE']}"
MODE = os.environ.get("MODE", "auto")
NOTES = "fixture://notes/culvert"
LEGACY = MODE == "legacy"
# Sampling, logs and resources/subscribe are deprecated from 2026-07-28 on, and have to work all the same.
warnings.simplefilter("ignore")


async def sample(context, params):
    text = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", model="client", content=text)


async def elicit(context, params):
    content = {"username": "ada", "email": "ada@example.com", "name": "Ada", "context": "rain"}
    return types.ElicitResult(action="accept", content=content)


async def main():
    logged, seen = [], asyncio.Queue()

    async def on_log(params):
        logged.append(params.data)

    async def on_message(message):
        await seen.put(type(message).__name__)

    async def sees(wanted):
        while await asyncio.wait_for(seen.get(), 20) != wanted:
            pass

    http = httpx2.AsyncClient(headers={"x-culvert-key": API_KEY}, timeout=30)
    transport = streamable_http_client(URL, http_client=http)
    async with http, Client(
        transport,
        mode=MODE,
        sampling_callback=sample,
        elicitation_callback=elicit,
        logging_callback=on_log,
        log_level="info",
        message_handler=on_message,
    ) as client:
        names = ("sampling", "elicitation")
        prefix = "test_" if LEGACY else "test_input_required_result_"
        sampled = await client.call_tool(prefix + names[0], {"prompt": "The capital of France?"})
        check("Paris" in sampled.content[0].text, "sampling", sampled)
        elicited = await client.call_tool(prefix + names[1], {"message": "Who?"})
        check("ada" in elicited.content[0].text.lower(), "elicitation", elicited)
        if not LEGACY:
            asked = await client.get_prompt("test_input_required_result_prompt")
            check(asked.messages, "a prompt that asks first", asked)

        if LEGACY:
            await client.send_ping()
            await client.set_logging_level("info")
        await client.call_tool("test_tool_with_logging", {})
        check(logged == ["begun", "at work", "finished"], "logs in order", logged)

        if LEGACY:
            await client.subscribe_resource(NOTES)
            await client.call_tool("touch", {"uri": NOTES})
            await sees("ResourceUpdatedNotification")
            await client.call_tool("test_trigger_tool_change", {})
            await sees("ToolListChangedNotification")
        else:
            async with client.listen(tools_list_changed=True, resource_subscriptions=[NOTES]) as subscription:
                await client.call_tool("touch", {"uri": NOTES})
                await client.call_tool("test_trigger_tool_change", {})
                kinds = set()
                async for event in subscription:
                    kinds.add(type(event).__name__)
                    if len(kinds) == 2:
                        break
                check(kinds == {"ResourceUpdated", "ToolsListChanged"}, "two changes", kinds)


asyncio.run(main())
done(f"mcp_asking {MODE}")
