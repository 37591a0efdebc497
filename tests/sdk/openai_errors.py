"""What the official openai client makes of every error: each must become its own exception type."""

import os

import openai
from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

CONNECTOR = os.environ["CONNECTOR"]


def client(key=API_KEY, **options):
    return OpenAI(base_url=f"{GATEWAY}/v1", api_key=key, max_retries=0, timeout=30, **options)


def refused(kind, model, key=API_KEY, stream=False):
    """Calls `model` and gives the exception, which must be of `kind`."""
    try:
        client(key).chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello"}], stream=stream
        )
    except openai.APIStatusError as error:
        check(type(error) is kind, f"{model} raises {kind.__name__}", (type(error), str(error)))
        return error
    raise SystemExit(f"FAILED: {model} was answered")


bad_key = refused(openai.AuthenticationError, f"{CONNECTOR}/demo-model", key="cvk_" + "A" * 43)
check(bad_key.status_code == 401 and bad_key.code == "invalid_key", "a bad key is 401 invalid_key", bad_key.body)
check(bad_key.response.headers.get("x-request-id"), "an error carries the request id", dict(bad_key.response.headers))
check(API_KEY not in str(bad_key), "no key in a message", str(bad_key))

unknown = refused(openai.NotFoundError, f"{CONNECTOR}/no-such-model")
check(unknown.code == "model_not_found", "an unknown model is model_not_found", unknown.body)
check("demo-model" in str(unknown), "the candidates are listed", str(unknown))
stranger = refused(openai.NotFoundError, "no-such-connector/demo-model")
check(stranger.code == "model_not_found", "an unknown connector is model_not_found", stranger.body)

backend = refused(openai.InternalServerError, f"{CONNECTOR}/fault-500")
check(backend.status_code == 500 and backend.code == "fixture_500", "the backend's own 500 passes unchanged", backend.body)
busy = refused(openai.RateLimitError, f"{CONNECTOR}/fault-429")
check(busy.code == "fixture_429", "the backend's own 429 passes unchanged", busy.body)
check(busy.response.headers.get("retry-after") == "7", "retry-after passes", dict(busy.response.headers))

garbage = refused(openai.InternalServerError, f"{CONNECTOR}/fault-garbage")
check(garbage.status_code == 502 and garbage.code == "backend_protocol", "garbage is 502 backend_protocol", garbage.body)
huge = refused(openai.InternalServerError, f"{CONNECTOR}/fault-huge-headers")
check(huge.status_code == 502, "a head above the limits is 502", huge.body)

# A stream that is cut after tokens: the tokens, then an error, and never a clean end.
for fault in ("fault-reset", "fault-cut"):
    text, error = "", None
    try:
        for chunk in client().chat.completions.create(
            model=f"{CONNECTOR}/{fault}", messages=[{"role": "user", "content": "hello"}], stream=True
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
    except (openai.APIError, OSError) as caught:
        error = caught
    except Exception as caught:  # httpx raises its own types while a body is read
        error = caught
    # A reset may take bytes with it that were on their way; a close may not.
    whole = "Water finds its"
    arrived = whole.startswith(text) if fault == "fault-reset" else text == whole
    check(arrived, f"{fault}: tokens before the cut arrive, and no others", text)
    check(error is not None, f"{fault}: a cut stream is an error to the client")
done("openai_errors")
