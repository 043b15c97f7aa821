"""What resources of this code location do beyond Dagster's own: launchpad, references, sharing, refusals."""

from __future__ import annotations

from typing import Annotated, Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from pydantic import AfterValidator, Field

from wrm_pipeline.resources.base import BaseIOManager, BaseResource, share


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("is not even")
    return value


class Inner(BaseResource):
    path: str = "here"
    size: Annotated[int, AfterValidator(_even)] = Field(2, ge=0)


class Outer(BaseResource):
    inner: Inner
    name: str | None = None
    other: str = "other"


class Keeper(BaseIOManager):
    outer: Outer

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        obj.append(self.outer.inner.path)

    def load_input(self, context: dg.InputContext) -> None: ...


def run(inner: Inner, outer: Outer, config: dict[str, Any] | None = None) -> list[Any]:
    """What an asset sees of the resources, and what its I/O manager does; `config` is by resource."""
    seen: list[Any] = []

    @dg.asset(io_manager_key="keeper")
    def asset(inner: Inner, outer: Outer) -> list[Any]:
        seen.extend([inner.path, inner.size, outer.name, outer.other, outer.inner.path])
        return seen

    dg.materialize(
        [asset],
        resources={"inner": inner, "outer": outer, "keeper": Keeper(outer=outer)},
        run_config={"resources": {key: {"config": values} for key, values in (config or {}).items()}},
    )
    return seen


def shared(**values: Any) -> tuple[Inner, Outer]:
    inner = share(Inner(path="defined", size=4))
    return inner, share(Outer(inner=inner, **{"name": "defined", **values}))


def test_a_run_that_changes_one_field_keeps_the_others():
    assert run(*shared()) == ["defined", 4, "defined", "other", "defined", "defined"]
    assert run(*shared(), {"inner": {"size": 6}}) == ["defined", 6, "defined", "other", "defined", "defined"]
    assert run(*shared(), {"outer": {"other": "x"}}) == ["defined", 4, "defined", "x", "defined", "defined"]
    assert run(*shared(), {"outer": {"name": None}}) == ["defined", 4, None, "other", "defined", "defined"]


def test_what_a_run_changes_reaches_everything_that_uses_the_resource():
    seen = run(*shared(), {"inner": {"path": "run"}})
    assert seen == ["run", 4, "defined", "other", "run", "run"]


def test_one_that_has_no_key_of_its_own_is_as_it_was_defined():
    outer = Outer(inner=Inner(path="its own"))
    assert run(Inner(), outer, {"inner": {"path": "run"}})[-2:] == ["its own", "its own"]


def test_a_reference_to_a_variable_is_resolved_in_the_run_and_checked_then(monkeypatch):
    monkeypatch.setenv("A_PATH", "from the environment")
    monkeypatch.setenv("A_SIZE", "8")
    inner = share(Inner(path=dg.EnvVar("A_PATH"), size=dg.EnvVar.int("A_SIZE")))
    outer = share(Outer(inner=inner))
    assert run(inner, outer)[:2] == ["from the environment", 8]
    assert run(inner, outer, {"inner": {"size": 2}})[:2] == ["from the environment", 2]
    assert run(*shared(), {"inner": {"path": {"env": "A_PATH"}}})[4] == "from the environment"
    monkeypatch.setenv("A_SIZE", "7")
    with pytest.raises(dg.DagsterError) as caught:
        run(inner, outer)
    assert "size\n  Value error, is not even" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"nothing": 1}, '"nothing" at path root:resources:inner:config'),
        ({"path": 3}, "root:resources:inner:config:path"),
        ({"size": "s3cr3t-canary"}, "root:resources:inner:config:size"),
        ({"size": -2}, "size\n  Input should be greater than or equal to 0"),
        ({"size": 3}, "size\n  Value error, is not even"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(config, words):
    with pytest.raises(dg.DagsterError) as caught:
        run(*shared(), {"inner": config})
    assert words in f"{caught.value}{caught.value.__cause__}"


def test_a_value_that_does_not_fit_is_not_quoted():
    class Login(BaseResource):
        password: Annotated[str, AfterValidator(lambda _: 1 / 0 if False else _even(1))]

    with pytest.raises(ValueError, match="is not even") as caught:
        Login(password="s3cr3t-canary")
    assert "canary" not in str(caught.value)


def test_the_page_of_resources_shows_what_is_in_force_and_what_uses_what():
    inner = share(Inner(path=dg.EnvVar("A_PATH"), size=4))
    outer = share(Outer(inner=inner))
    defs = dg.Definitions(resources={"inner": inner, "outer": outer, "keeper": Keeper(outer=outer)})
    shown = {each.name: each for each in RepositorySnap.from_def(defs.get_repository_def()).resources or ()}
    assert shown["inner"].configured_values["size"] == "4"
    assert shown["inner"].configured_values["path"].name == "A_PATH"
    assert shown["outer"].configured_values == {"name": "null", "other": '"other"'}
    assert shown["outer"].parent_resources == {"keeper": "outer"}
    assert shown["inner"].parent_resources == {"outer": "inner"}
