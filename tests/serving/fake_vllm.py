"""A vLLM to test against: its documented API to the letter, on a small transformers model, with adapters read by PEFT.

What it refuses, and in which words and shapes, is what vLLM's server refuses (vllm/entrypoints/openai, 0.10 to 2026).
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

# name -> the types that its pydantic model takes; anything else is refused here, where vLLM would only warn.
FIELDS: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "prompt": (list,),
    "max_tokens": (int,),
    "n": (int,),
    "stream": (bool,),
    "echo": (bool,),
    "temperature": (float, int),
    "top_p": (float, int),
    "top_k": (int,),
    "min_p": (float,),
    "seed": (int,),
    "repetition_penalty": (float,),
    "stop": (list,),
    "stop_token_ids": (list,),
    "logprobs": (int,),
    "return_tokens_as_token_ids": (bool,),
}


class Refusal(Exception):
    """(status, type, message)"""


class FakeVLLM:
    """Its server, at ``url``.

    Args:
        model, tokenizer: of the base model.
        rank: ``--max-lora-rank``.
        length: ``--max-model-len``.
        updating: was ``VLLM_ALLOW_RUNTIME_LORA_UPDATING`` set?
        lora: was ``--enable-lora`` given?
        key: ``--api-key``.
        interval: tokens of one chunk (``--stream-interval``).
        old: errors as they were before 0.10.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        rank: int = 16,
        length: int = 64,
        updating: bool = True,
        lora: bool = True,
        key: str | None = None,
        interval: int = 1,
        old: bool = False,
    ) -> None:
        self.plain, self.tokenizer = model, tokenizer
        self.rank, self.length, self.updating, self.lora = rank, length, updating, lora
        self.key, self.interval, self.old = key, interval, old
        self.name = "org/base-model"
        self.adapters: dict[str, str] = {}
        self.model: Any = None
        self.asked: list[tuple[str, Any]] = []
        """(path, body) of everything."""
        self.aborted = 0
        """Streams whose client hung up."""
        self.most = 0
        """Adapters that were loaded at once."""
        self.pause = 0.0
        """Seconds before each token."""
        self.goes_on = threading.Event()
        """While it is not set, no token comes."""
        self.goes_on.set()
        self.broken = False
        """Break off after the first token."""
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self, None)

            def do_POST(self) -> None:
                outer.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def begin_anew(self) -> None:
        """As after a crash."""
        self.adapters.clear()

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    # --- HTTP

    def answer(self, http: BaseHTTPRequestHandler, body: Any) -> None:
        path = http.path
        self.asked.append((path, body))
        try:
            if self.key is not None and http.headers["Authorization"] != f"Bearer {self.key}":
                return self.whole(http, 401, {"error": "Unauthorized"})
            if path == "/v1/models" and body is None:
                return self.whole(http, 200, self.models())
            if path == "/v1/completions":
                return self.stream(http, self.checked(body))
            if self.updating and path == "/v1/load_lora_adapter":
                return self.whole(http, 200, self.load(**body))
            if self.updating and path == "/v1/unload_lora_adapter":
                return self.whole(http, 200, self.unload(**body))
        except Refusal as error:
            status, kind, message = error.args
            told = {"message": message, "type": kind, "param": None, "code": status}
            return self.whole(http, status, {"object": "error", **told} if self.old else {"error": told})
        return self.whole(http, 404, {"detail": "Not Found"})

    def whole(self, http: BaseHTTPRequestHandler, status: int, content: Any) -> None:
        text = isinstance(content, str)
        sent = content.encode() if text else json.dumps(content).encode()
        http.send_response(status)
        http.send_header("Content-Type", "text/plain" if text else "application/json")
        http.send_header("Content-Length", str(len(sent)))
        http.end_headers()
        http.wfile.write(sent)

    def stream(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream; charset=utf-8")
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()

        def send(event: str) -> None:
            line = f"data: {event}\n\n".encode()
            http.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        try:
            for choice in self.continued(body):
                send(
                    json.dumps(
                        {
                            "id": "cmpl-1",
                            "object": "text_completion",
                            "created": 1,
                            "model": body["model"],
                            "choices": [choice],
                            "usage": None,
                        }
                    )
                )
                if self.broken:
                    http.close_connection = True
                    return
            send("[DONE]")
            http.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.aborted += 1
            http.close_connection = True

    # --- routes

    def models(self) -> dict[str, Any]:
        base = {
            "id": self.name,
            "object": "model",
            "owned_by": "vllm",
            "root": self.name,
            "parent": None,
            "max_model_len": self.length,
        }
        own = [
            {
                "id": name,
                "object": "model",
                "owned_by": "vllm",
                "root": path,
                "parent": self.name,
                "max_model_len": None,
            }
            for name, path in self.adapters.items()
        ]
        return {"object": "list", "data": [base, *own]}

    def load(self, lora_name: str, lora_path: str) -> str:
        with self.lock:
            if lora_name in self.adapters:
                raise Refusal(400, "InvalidUserInput", f"The lora adapter '{lora_name}' has already been loaded.")
            if not self.lora:
                raise Refusal(500, "InternalServerError", "LoRA is not enabled. Use --enable-lora to enable LoRA.")
            config = Path(lora_path) / "adapter_config.json"
            if not config.is_file():
                raise Refusal(
                    404, "NotFoundError", f"Loading lora {lora_name} failed: No adapter found for {lora_path}"
                )
            known = json.loads(config.read_text())
            if known["r"] > self.rank:
                said = (
                    f"Call to add_lora method failed: LoRA rank {known['r']} is greater than max_lora_rank {self.rank}."
                )
                raise Refusal(400 if self.old else 500, "BadRequestError" if self.old else "InternalServerError", said)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self.model is None:
                    import peft

                    self.model = peft.PeftModel.from_pretrained(self.plain, lora_path, adapter_name=lora_name).eval()
                elif lora_name not in self.model.peft_config:  # after `begin_anew` it is there still
                    self.model.load_adapter(lora_path, lora_name)
            self.adapters[lora_name] = lora_path
            self.most = max(self.most, len(self.adapters))
        return f"Success: LoRA adapter '{lora_name}' added successfully."

    def unload(self, lora_name: str) -> str:
        with self.lock:
            if lora_name not in self.adapters:
                raise Refusal(404, "NotFoundError", f"The lora adapter '{lora_name}' cannot be found.")
            del self.adapters[lora_name]
        return f"Success: LoRA adapter '{lora_name}' removed successfully."

    def checked(self, body: dict[str, Any]) -> dict[str, Any]:
        for name, value in body.items():
            if name not in FIELDS or not isinstance(value, FIELDS[name]):
                raise Refusal(400, "BadRequestError", f"{name}: {value!r}")
        if body["model"] != self.name and body["model"] not in self.adapters:
            raise Refusal(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        if not body["prompt"] or not all(isinstance(one, int) for one in body["prompt"]):
            raise Refusal(400, "BadRequestError", "prompt must be a list of tokens here")
        if body["max_tokens"] < 1 and not body["echo"]:
            raise Refusal(400, "BadRequestError", f"max_tokens must be at least 1, got {body['max_tokens']}.")
        if len(body["prompt"]) + body["max_tokens"] > self.length:
            raise Refusal(400, "BadRequestError", f"This model's maximum context length is {self.length} tokens.")
        if not 0 <= body["logprobs"] <= 20 or not 0 < body["top_p"] <= 1 or body["seed"] >= 2**63 or body["n"] != 1:
            raise Refusal(400, "BadRequestError", "a value is out of its range")
        return body

    # --- the model

    def continued(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids, made = list(body["prompt"]), list[int]()
        most, reason, shown = max(1, body["max_tokens"]), None, ""
        source = torch.Generator().manual_seed(body["seed"])
        ready: list[tuple[int, Any]] = []
        text = ""
        while reason is None:
            time.sleep(self.pause)
            self.goes_on.wait(20)
            scores = self.scores(body["model"], [*ids, *made])
            if not made and body["echo"]:
                ready = [(ids[0], None), *zip(ids[1:], scores[:-1], strict=True)]
                text = self.tokenizer.decode(ids)
                if not body["max_tokens"]:
                    yield self.chunk(body, text, ready, "length")
                    return
            made.append(self.drawn(scores[-1], body, source))
            ready.append((made[-1], scores[-1]))
            now = self.tokenizer.decode(made, skip_special_tokens=True)
            if made[-1] in body["stop_token_ids"]:
                reason = "stop"
            elif any(stop in now for stop in body["stop"]):
                reason, now = "stop", now[: min(now.find(stop) for stop in body["stop"] if stop in now)]
            elif len(made) == most:
                reason = "length"
            text, shown = text + now[len(shown) :], now
            if reason or len(made) == 1 or len(ready) >= self.interval:
                yield self.chunk(body, text, ready, reason)
                ready, text = [], ""

    def chunk(
        self, body: dict[str, Any], text: str, ready: list[tuple[int, Any]], reason: str | None
    ) -> dict[str, Any]:
        named = [f"token_id:{one}" for one, _ in ready]
        if not body["return_tokens_as_token_ids"]:
            named = [self.tokenizer.decode([one]) for one, _ in ready]
        own, tops = list[Any](), list[Any]()
        for one, scores in ready:
            if scores is None:
                own.append(None)
                tops.append(None)
                continue
            known = torch.log_softmax(scores, dim=-1)
            best = known.topk(body["logprobs"]) if body["logprobs"] else None
            top = {f"token_id:{one}": float(known[one])}  # the token itself is the first
            top |= {} if best is None else {f"token_id:{n}": float(v) for v, n in zip(*best, strict=True)}
            own.append(float(known[one]))
            tops.append(top)
        told = {"text_offset": [0] * len(ready), "token_logprobs": own, "tokens": named, "top_logprobs": tops}
        return {"index": 0, "text": text, "logprobs": told, "finish_reason": reason, "stop_reason": None}

    def scores(self, name: str, ids: list[int]) -> Any:
        with self.lock, torch.no_grad(), self.through(name) as model:
            return model(torch.tensor([ids])).logits[0].float()

    @contextmanager
    def through(self, name: str) -> Iterator[Any]:
        if self.model is None:
            yield self.plain
            return
        if name != self.name:
            self.model.set_adapter(name)
        with self.model.disable_adapter() if name == self.name else nullcontext():
            yield self.model

    def drawn(self, scores: Any, body: dict[str, Any], source: Any) -> int:
        if body["temperature"] == 0:
            return int(scores.argmax())
        return int(torch.multinomial(torch.softmax(scores / body["temperature"], -1), 1, generator=source))
