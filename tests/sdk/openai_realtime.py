"""A realtime conversation with the official openai client."""

import os

from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)
with client.realtime.connect(model=f"{os.environ['CONNECTOR']}/voice") as connection:
    created = connection.recv()
    check(created.type == "session.created", "a conversation begins", created)
    connection.session.update(session={"type": "realtime", "instructions": "be brief"})
    updated = connection.recv()
    check(updated.session.instructions == "be brief", "the session is changed", updated)
    connection.response.create()
    types = []
    for event in connection:
        types.append(event.type)
        if event.type == "response.done":
            break
    check(types == ["response.created", "response.output_text.delta", "response.done"], "a response", types)
done("openai_realtime")
