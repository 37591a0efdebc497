"""Messages, streaming, token counts and errors with the official anthropic client."""

import os

import anthropic

from common import API_KEY, GATEWAY, check, done

TEXT = "Water finds its own way through the culvert under the road."
model = f"{os.environ['CONNECTOR']}/demo-model"
client = anthropic.Anthropic(base_url=GATEWAY, api_key=API_KEY, max_retries=0, timeout=30)
hello = [{"role": "user", "content": "hello"}]

message = client.messages.create(model=model, max_tokens=12, messages=hello)
check(message.content[0].text == TEXT and message.stop_reason == "end_turn", "a message", message)
with client.messages.stream(model=model, max_tokens=12, messages=hello) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
check("".join(pieces) == TEXT and len(pieces) == 12, "a streamed message", pieces)
check(final.usage.output_tokens == 12, "usage of a streamed message", final.usage)
check(client.messages.count_tokens(model=model, messages=hello).input_tokens > 0, "a count of tokens")

try:
    client.messages.create(model="nobody/none", max_tokens=3, messages=hello)
except anthropic.NotFoundError as error:
    check(error.body["type"] == "error" and error.body["error"]["type"] == "not_found_error", "dialect of 404", error.body)
else:
    raise SystemExit("FAILED: an unknown model was answered")
try:
    anthropic.Anthropic(base_url=GATEWAY, api_key="cvk_" + "A" * 43, max_retries=0).messages.create(
        model=model, max_tokens=3, messages=hello
    )
except anthropic.AuthenticationError as error:
    check(error.body["error"]["type"] == "authentication_error", "dialect of 401", error.body)
else:
    raise SystemExit("FAILED: a bad key was answered")
done("anthropic_basic")
