"""Responses that are kept, and what can be done with them by their ids, with the official openai client."""

import os

import openai
from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

CONNECTOR = os.environ["CONNECTOR"]
model = f"{CONNECTOR}/demo-model"
client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)
TEXT = "Water finds its own way through the culvert under the road."

made = client.responses.create(model=model, input="hello")
kept = client.responses.retrieve(made.id)
check(kept.id == made.id and kept.output_text == TEXT, "a kept response", kept)
items = list(client.responses.input_items.list(made.id))
check(items[0].content[0].text == "hello", "what a response was asked", items)

begun = client.responses.create(model=model, input="hello", background=True)
check(begun.status == "in_progress", "a response in the background", begun)
check(client.responses.cancel(begun.id).status == "cancelled", "a cancelled response")
client.responses.delete(made.id)
try:
    client.responses.retrieve(made.id)
except openai.NotFoundError as error:
    check(error.code == "fixture_404", "the backend's own 404 of a deleted response", error.body)
else:
    raise SystemExit("FAILED: a deleted response was answered")

streamed = None
for event in client.responses.create(model=model, input="hello", stream=True):
    if event.type == "response.completed":
        streamed = event.response.id
check(client.responses.retrieve(streamed).output_text == TEXT, "a response that was streamed is kept too", streamed)

# where nobody remembers the id, the target is named
target = {"x-culvert-target": f"{CONNECTOR}/llm"}
named = client.responses.retrieve(streamed, extra_headers=target)
check(named.id == streamed, "a response of a named target", named)

count = client.responses.input_tokens.count(model=model, input="hello, how are you?")
check(count.input_tokens > 1, "a count of input tokens", count)
compact = client.responses.compact(model=model, input="a long conversation")
check(compact.object == "response.compaction", "a compacted conversation", compact)
done("openai_stored")
