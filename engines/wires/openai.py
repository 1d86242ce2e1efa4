"""OpenAI's chat wire: a request becomes a body, and what a server refuses in it is left out from then on. Replies are
read in `thirdshift.engines.wires.replies`. No socket is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from thirdshift.engines.core.json import dumps
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.wires.schema_forms import UNKNOWN_TO_GRAMMARS, enforceable, strict
from thirdshift.router.pricing.service import own_keys, own_keys_fault
from thirdshift.router.values import JSON, Endpoint, Mode, Request

CEILINGS = ("max_tokens", "max_completion_tokens")


class SchemaForm(Enum):
    """How a request's schema is sent. Answers are validated against the request's own, whatever was sent."""

    OWN = auto()
    STRICT = auto()
    """As OpenAI wants it: objects closed, every property required."""
    ENFORCEABLE = auto()
    """Without the keywords that servers refuse."""
    LOOSE = auto()
    """Only that the answer is JSON, where the server takes so much; else nothing."""


class Bodies:
    """Writes the bodies of one endpoint. Raises BadEndpointError where its params set what is not theirs."""

    def __init__(self, endpoint: Endpoint) -> None:
        taken = own_keys(endpoint.params)
        if taken:
            raise BadEndpointError(f"endpoint {endpoint.name}: {own_keys_fault(taken)}")
        self._model = endpoint.wire_model
        self._params = dict(endpoint.params)
        if endpoint.mode is Mode.FLEX:
            self._params.setdefault("service_tier", "flex")
        at_openai = endpoint.api_base is None and endpoint.protocol in ("openai", "azure")
        # OpenAI's newer models refuse max_tokens; other servers may not know its new name
        self._ceiling = "max_completion_tokens" if at_openai else "max_tokens"
        self._form = SchemaForm.STRICT if at_openai else SchemaForm.OWN
        if endpoint.workers is not None:
            self._form = SchemaForm.ENFORCEABLE
        self._refused: set[str] = set()
        """What the server does not want to be sent, learnt from its refusals."""
        self._takes_json = True
        self._unenforced: set[bytes] = set()
        """Schemas as they were last sent, which the server refuses in every form."""
        self.extra_bytes = len(dumps(self._params)) if self._params else 0
        """What the params may add to a prompt (documents, tools), in bytes."""

    def body(self, request: Request) -> dict[str, JSON]:
        """The JSON body of a request, params and the row's sampling included."""
        body: dict[str, JSON] = {"model": self._model, "messages": request.messages}
        if request.temperature is not None and "temperature" not in self._refused:
            body["temperature"] = request.temperature
        if request.response_schema is not None:
            wanted = self._format(request.response_schema)
            if wanted is not None:
                body["response_format"] = wanted
        if request.tools is not None:
            body["tools"] = request.tools
        body.update(self._params)
        body.update(request.sampling)
        body[self._ceiling] = request.max_tokens
        return body

    def _format(self, schema: Mapping[str, JSON]) -> dict[str, JSON] | None:
        """How the schema is sent; None: not at all."""
        loose: dict[str, JSON] | None = {"type": "json_object"} if self._takes_json else None
        if self._form is SchemaForm.LOOSE:
            return loose
        sent, closed = self._sent(schema)
        if self._unenforced and dumps(sent) in self._unenforced:
            return loose
        return {"type": "json_schema", "json_schema": {"name": "answer", "strict": closed, "schema": sent}}

    def _sent(self, schema: Mapping[str, JSON]) -> tuple[JSON, bool]:
        """(the schema in the form that is sent now, whether it claims to be strict)."""
        sent: JSON = schema
        closed = True
        if self._form is SchemaForm.STRICT:
            form = strict(schema)
            sent, closed = (schema, False) if form is None else (form, True)
        elif self._form is SchemaForm.ENFORCEABLE:
            sent = enforceable(schema, UNKNOWN_TO_GRAMMARS)
        return sent, closed

    def encoded(self, request: Request) -> bytes:
        return dumps(self.body(request))

    def adapt(self, parameter: str | None, body: Mapping[str, JSON]) -> bool:
        """Leave out from now on what a server has refused in `body`. Whether the same request would now be sent
        otherwise; each thing is learnt once, so that a server which refuses both ways is not asked for ever."""
        if parameter in CEILINGS:
            return self._adapt_ceiling(parameter, body)
        if parameter == "temperature":
            own = "temperature" in self._params or "temperature" not in body
            self._refused.add(parameter)
            return not own
        if parameter == "response_format" and parameter in body:
            return self._adapt_format(body)
        if parameter in ("strict_schema", "schema_keywords") and "response_format" in body:
            return self._adapt_schema(parameter, body)
        return False

    def _adapt_ceiling(self, parameter: str, body: Mapping[str, JSON]) -> bool:
        other = next(name for name in CEILINGS if name != parameter)
        if parameter not in self._refused and other not in self._refused:
            self._ceiling = other
        self._refused.add(parameter)
        return parameter in body and self._ceiling != parameter

    def _adapt_format(self, body: Mapping[str, JSON]) -> bool:
        """The server knows no schemas: JSON of any kind is asked for, or where it does not take that either, nothing."""
        wrapped = body["response_format"]
        if isinstance(wrapped, Mapping) and wrapped.get("type") == "json_schema":
            self._form = SchemaForm.LOOSE
        else:
            self._takes_json = False
        return "response_format" not in self._params

    def _adapt_schema(self, parameter: str, body: Mapping[str, JSON]) -> bool:
        if parameter not in self._refused:
            self._refused.add(parameter)
            wanted = SchemaForm.STRICT if parameter == "strict_schema" else SchemaForm.ENFORCEABLE
            self._form = wanted if self._form is SchemaForm.OWN else SchemaForm.ENFORCEABLE
        wrapped = body["response_format"]
        own = wrapped.get("json_schema", {}) if isinstance(wrapped, Mapping) else {}
        sent = own.get("schema")
        if not isinstance(sent, Mapping) or "response_format" in self._params:
            return False
        same = self._sent(sent) == (sent, bool(own.get("strict")))
        if same:  # no form of it is taken; other rows' schemas may be
            self._unenforced.add(dumps(sent))
        return True


def refused_beforehand(request: Request) -> str | None:
    """Why a request must not be sent as it is, or None."""
    taken = own_keys(request.sampling) if request.sampling else None
    if not taken:
        return None
    return f"the row's sampling may not set {', '.join(sorted(taken))}; each request has one answer"
