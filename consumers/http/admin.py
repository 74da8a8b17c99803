"""Operations on what is held: users, items, models, dead letters."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from consumers.http import reading
from consumers.http.bodies import (
    ErasedAnswer,
    ItemBody,
    ItemsAnswer,
    LettersAnswer,
    LimitQuery,
    ModelsAnswer,
    RetiredAnswer,
    SearchQuery,
    ShadowAnswer,
    UpsertAnswer,
    UsersAnswer,
)
from consumers.http.gate import trace
from consumers.http.operations import Operation, json_answer
from consumers.http.overload import Overload
from consumers.http.problems import Refusal
from consumers.http.service import Service
from consumers.serving.types import ModelInfo, UserState

_ITEM = msgspec.json.Decoder(ItemBody)
_ITEMS = msgspec.json.Decoder(list[ItemBody])


class Admin:
    """Looks at what is held, and changes it.

    Args:
        service: who holds it.
        overload: limits.
    """

    def __init__(self, service: Service, overload: Overload) -> None:
        self._service, self._overload = service, overload

    async def users(self, request: Request) -> Response:
        """Ids of users."""
        asked = reading.query(request, SearchQuery)
        return json_answer(UsersAnswer(self._service.users(asked.query, asked.limit)))

    async def user(self, request: Request) -> Response:
        """What is held of one user."""
        user = self._user(request)
        state = self._service.user(user)
        if state is None:
            raise Refusal(404, "nothing is held of such a user")
        return json_answer(state)

    async def erase(self, request: Request) -> Response:
        """Forget a user."""
        if not await self._service.erase(self._user(request)):
            raise Refusal(404, "nothing is held of such a user")
        return json_answer(ErasedAnswer(True))

    async def items(self, request: Request) -> Response:
        """Items of the catalogue."""
        asked = reading.query(request, SearchQuery)
        return json_answer(ItemsAnswer(self._service.items(asked.query, asked.limit)))

    async def upsert(self, request: Request) -> Response:
        """Add items, or change them."""
        reading.require_json(request)
        body = await reading.read_body(request, self._overload)
        limits = self._overload.limits
        if body.lstrip(b" \t\r\n")[:1] == b"[":
            items = reading.decode(body, _ITEMS, limits.depth)
        else:
            items = [reading.decode(body, _ITEM, limits.depth)]
        if len(items) > limits.events:
            raise Refusal(413, f"expected at most {limits.events} items in a body, got {len(items)}")
        await self._service.upsert([item.info() for item in items])
        return json_answer(UpsertAnswer(len(items)))

    async def retire(self, request: Request) -> Response:
        """Never show an item again."""
        if not await self._service.retire(reading.path_id(request, "id")):
            raise Refusal(404, "there is no such item")
        return json_answer(RetiredAnswer(True))

    async def models(self, request: Request) -> Response:
        """Versions that the learner published."""
        return json_answer(ModelsAnswer(self._service.models()))

    async def promote(self, request: Request) -> Response:
        """Serve one version and no other."""
        return json_answer(await self._service.promote(reading.path_id(request, "version")))

    async def rollback(self, request: Request) -> Response:
        """Serve the version before."""
        return json_answer(await self._service.rollback())

    async def shadow(self, request: Request) -> Response:
        """Let a version see the traffic and show nothing."""
        version = reading.path_id(request, "version")
        await self._service.shadow(version)
        return json_answer(ShadowAnswer(version))

    async def no_shadow(self, request: Request) -> Response:
        """No shadow any more."""
        await self._service.shadow(None)
        return json_answer(ShadowAnswer(None))

    async def letters(self, request: Request) -> Response:
        """Records that could not be used."""
        asked = reading.query(request, LimitQuery)
        return json_answer(LettersAnswer(self._service.dead_letters(asked.limit)))

    def _user(self, request: Request) -> str:
        user = reading.path_id(request, "id")
        trace(request).user = user
        return user

    def operations(self) -> list[Operation]:
        """What this part answers."""
        return [*self._of_users(), *self._of_items(), *self._of_models()]

    def _of_users(self) -> list[Operation]:
        read = "What is held of a user"
        state = "/v1/users/{id}/state"
        listed = "Ids of users that hold a text"
        erased = (
            "Forgets sessions, open decisions and history here, and tells every consumer of the topic to do the same. "
            "Records that are in the topic already go when its retention says so."
        )
        return [
            Operation(
                "GET",
                "/v1/users",
                "listUsers",
                "users",
                "admin",
                listed,
                self.users,
                query=SearchQuery,
                answer=UsersAnswer,
                refusals=(422,),
            ),
            Operation(
                "GET",
                "/v1/users/{id}",
                "readUser",
                "users",
                "admin",
                read,
                self.user,
                answer=UserState,
                refusals=(404,),
            ),
            Operation(
                "GET", state, "readUserState", "users", "admin", read, self.user, answer=UserState, refusals=(404,)
            ),
            Operation(
                "DELETE",
                "/v1/users/{id}",
                "eraseUser",
                "users",
                "admin",
                "Forget a user",
                self.erase,
                erased,
                answer=ErasedAnswer,
                refusals=(404, 503),
            ),
        ]

    def _of_items(self) -> list[Operation]:
        examples = {"two items": [{"item": "i7", "category": "shoes"}, {"item": "i9", "available": False}]}
        return [
            Operation(
                "GET",
                "/v1/items",
                "listItems",
                "items",
                "serve",
                "Items whose id holds a text",
                self.items,
                query=SearchQuery,
                answer=ItemsAnswer,
                refusals=(422,),
            ),
            Operation(
                "PUT",
                "/v1/items",
                "putItems",
                "items",
                "admin",
                "Add items, or change them",
                self.upsert,
                "One item or an array of them.",
                body=[list[ItemBody], ItemBody],
                answer=UpsertAnswer,
                refusals=(503,),
                examples=examples,
            ),
            Operation(
                "DELETE",
                "/v1/items/{id}",
                "retireItem",
                "items",
                "admin",
                "Never show an item again",
                self.retire,
                "From the next answer on.",
                answer=RetiredAnswer,
                refusals=(404, 503),
            ),
        ]

    def _of_models(self) -> list[Operation]:
        version = "/v1/models/{version}"
        return [
            Operation(
                "GET",
                "/v1/models",
                "listModels",
                "models",
                "any",
                "Versions that the learner published",
                self.models,
                answer=ModelsAnswer,
            ),
            Operation(
                "POST",
                f"{version}/promote",
                "promoteModel",
                "models",
                "admin",
                "Serve one version and no other",
                self.promote,
                answer=ModelInfo,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/models/rollback",
                "rollbackModel",
                "models",
                "admin",
                "Serve the version before",
                self.rollback,
                answer=ModelInfo,
                refusals=(404,),
            ),
            Operation(
                "POST",
                f"{version}/shadow",
                "shadowModel",
                "models",
                "admin",
                "Let a version see the traffic and show nothing",
                self.shadow,
                answer=ShadowAnswer,
                refusals=(404,),
            ),
            Operation(
                "DELETE",
                "/v1/models/shadow",
                "endShadow",
                "models",
                "admin",
                "No shadow any more",
                self.no_shadow,
                answer=ShadowAnswer,
            ),
            Operation(
                "GET",
                "/v1/dead-letters",
                "listDeadLetters",
                "models",
                "admin",
                "Records that could not be used",
                self.letters,
                query=LimitQuery,
                answer=LettersAnswer,
                refusals=(422,),
            ),
        ]
