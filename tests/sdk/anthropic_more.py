"""Tools, models, faults and cut streams with the official anthropic client: everything in its dialect."""

import os

import anthropic

from common import API_KEY, GATEWAY, check, done

CONNECTOR = os.environ["CONNECTOR"]
model = f"{CONNECTOR}/demo-model"
client = anthropic.Anthropic(base_url=GATEWAY, api_key=API_KEY, max_retries=0, timeout=30)
question = [{"role": "user", "content": "weather?"}]
tools = [
    {
        "name": "weather",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    }
]

# a tool, whole and streamed, and its result
used = client.messages.create(model=model, max_tokens=12, messages=question, tools=tools)
call = used.content[0]
check(used.stop_reason == "tool_use" and call.input == {"city": "fixture", "days": 7}, "the use of a tool", used)
with client.messages.stream(model=model, max_tokens=12, messages=question, tools=tools) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_message()
check(final.content[0].input == call.input, "the streamed use of a tool", final)
check(kinds.count("input_json") == 2, "arguments come piece by piece", kinds)
answered = client.messages.create(
    model=model,
    max_tokens=12,
    tools=tools,
    messages=question
    + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    ],
)
check("rain" in answered.content[0].text, "the answer after the tool", answered)
counted = client.messages.count_tokens(model=model, messages=question, tools=tools, system="Be brief.")
check(counted.input_tokens > 0, "a count with tools", counted)

# models
ids = [entry.id for entry in client.models.list()]
check(model in ids, "the models", ids)
check(client.models.retrieve(model).id == model, "one model")


def refused(kind, model, **more):
    """Calls `model` and gives the exception, which must be of `kind`."""
    try:
        client.messages.create(model=model, max_tokens=3, messages=question, **more)
    except anthropic.APIStatusError as error:
        check(type(error) is kind, f"{model} raises {kind.__name__}", (type(error), str(error)))
        check(error.body["type"] == "error", "the dialect", error.body)
        return error
    raise SystemExit(f"FAILED: {model} was answered")


busy = refused(anthropic.RateLimitError, f"{CONNECTOR}/fault-429")
check(busy.response.headers["retry-after"] == "7", "retry-after passes", dict(busy.response.headers))
broken = refused(anthropic.InternalServerError, f"{CONNECTOR}/fault-500")
check(broken.status_code == 500 and broken.body["error"]["message"] == "the fixture fails as told", "its own 500", broken.body)
garbage = refused(anthropic.InternalServerError, f"{CONNECTOR}/fault-garbage")
check(garbage.status_code == 502 and garbage.body["error"]["type"] == "api_error", "ours in its dialect", garbage.body)
stranger = refused(anthropic.NotFoundError, f"{CONNECTOR}/no-such-model")
check(stranger.body["error"]["type"] == "not_found_error", "an unknown model", stranger.body)

# an answer that is cut ends with an error, never as if it were whole
for fault in ("cut", "reset"):
    words = []
    try:
        more = {"fixture": {"fault": fault, "after": 4}}
        with client.messages.stream(model=model, max_tokens=12, messages=question, extra_body=more) as stream:
            words += stream.text_stream
    except anthropic.APIError as error:
        check("answer_cut" in str(error) or "cut" in str(error).lower(), f"why the stream ended ({fault})", str(error))
        check(len(words) <= 4, "words before the cut", words)
    else:
        raise SystemExit(f"FAILED: a stream with {fault} was taken for a whole one")
done("anthropic_more")
